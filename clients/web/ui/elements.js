// @ts-check
// Elements: finds those of the page by id, and makes new ones, from text and never from markup.

/**
 * The element with this id.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return /** @type {T} */ (found);
}

/**
 * A new element. Attributes that are `false` or `null` are left out; functions named on... become listeners.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/**
 * An icon of index.html.
 * @param {string} name
 */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/**
 * Opens a dialog. Resolves with the argument of `close`, or with null after Escape.
 * @template T
 * @param {HTMLDialogElement} dialog
 * @param {(close: (answer: T | null) => void) => void} fill  sets the dialog up
 * @returns {Promise<T | null>}
 */
export function ask(dialog, fill) {
  return new Promise((resolve) => {
    /** @type {T | null} */
    let given = null;
    dialog.addEventListener("close", () => resolve(given), { once: true });
    fill((answer) => {
      given = answer;
      dialog.close();
    });
    dialog.showModal();
  });
}
