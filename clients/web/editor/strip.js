// @ts-check
// The strip of kept variants, side by side below the picture.

import { described } from "../state/edits.js";
import { thumbnail } from "../ui/drawing.js";
import { byId, element, icon } from "../ui/elements.js";

/** @typedef {import("../state/history.js").State & {picture: Blob}} Variant */

export class Strip {
  /** @param {{onReturn: (variant: Variant) => void, onChange: () => void}} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    /** @type {Variant[]} */
    this.variants = [];
  }

  /** @param {Variant} variant */
  keep(variant) {
    this.variants.push(variant);
    this.#show();
    byId("strip").scrollLeft = byId("strip").scrollWidth;
  }

  #show() {
    byId("strip-empty").hidden = this.variants.length > 0;
    byId("strip").replaceChildren(...this.variants.map((variant, index) => this.#item(variant, index)));
    this.handlers.onChange();
  }

  /**
   * @param {Variant} variant
   * @param {number} index
   */
  #item(variant, index) {
    const caption = described(variant.edits, variant.source.bundle);
    const back = element(
      "button",
      { class: "variant", type: "button", "aria-label": `Return to kept variant ${index + 1}: ${caption}`, onclick: () => this.handlers.onReturn(variant) },
      thumbnail(variant.picture),
      element("span", { class: "caption" }, caption),
    );
    const remove = element("button", { class: "icon-button small remove", type: "button", "aria-label": `Remove kept variant ${index + 1}` }, icon("reset"));
    remove.addEventListener("click", () => {
      this.variants.splice(index, 1);
      this.#show();
      const next = byId("strip").querySelectorAll("button.variant");
      /** @type {HTMLElement} */ (next[Math.min(index, next.length - 1)] ?? byId("keep")).focus();
    });
    return element("li", {}, back, remove);
  }
}
