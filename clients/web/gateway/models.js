// @ts-check
// The models (bundles) that the gateway serves, and the one in use. The visitor chooses where there are several.

import { byId, element } from "../ui/elements.js";

/** @typedef {import("../state/messages.js").Bundle} Bundle */

export class Models {
  /** @type {() => void} */
  #answered = () => {};

  /**
   * @param {{onUse: (bundle: Bundle) => void, onChosen: () => void}} handlers  `onUse`: another bundle is in use;
   *   `onChosen`: by the visitor's choice
   */
  constructor(handlers) {
    this.handlers = handlers;
    /** @type {import("../state/messages.js").Bundles} */
    this.served = { bundles: [], limits: { max_picture_bytes: Infinity, max_picture_pixels: Infinity }, server_version: "" };
    /** The bundle in use; undefined until the gateway has answered for the first time. @type {Bundle} */
    this.bundle = /** @type {any} */ (undefined);
    /** Fulfilled once the gateway has answered for the first time. @type {Promise<void>} */
    this.known = new Promise((resolve) => (this.#answered = resolve));
    this.select = /** @type {HTMLSelectElement} */ (byId("bundle"));
    this.select.addEventListener("change", () => {
      const chosen = this.#named(this.select.value);
      if (!chosen) return;
      this.use(chosen);
      handlers.onChosen();
    });
  }

  /**
   * Takes the gateway's list, and uses its first bundle where none is in use yet.
   * @param {import("../state/messages.js").Bundles} served
   */
  offer(served) {
    this.served = served;
    this.select.replaceChildren(...served.bundles.map(({ name, resolution }) => element("option", { value: name }, `${name}, ${resolution} px`)));
    byId("bundle-field").hidden = served.bundles.length < 2;
    if (!this.bundle) this.use(served.bundles[0]);
    this.#answered();
  }

  /** Whether the gateway still serves the bundle in use. */
  get isServed() {
    return this.#named(this.bundle.name) !== undefined;
  }

  /** @param {Bundle} bundle */
  use(bundle) {
    this.bundle = bundle;
    this.select.value = bundle.name;
    byId("about").textContent = [`${bundle.name}, ${bundle.resolution} × ${bundle.resolution} pixels.`, bundle.summary].join(" ");
    this.handlers.onUse(bundle);
  }

  /** @param {string} name */
  #named(name) {
    return this.served.bundles.find((bundle) => bundle.name === name);
  }
}
