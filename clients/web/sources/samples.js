// @ts-check
// Generated faces: eight on the first page, and single ones to blend with.

import { pictureFormat } from "../state/pictures.js";
import { sourceFrom } from "../state/source.js";
import { thumbnail } from "../ui/drawing.js";
import { byId, element } from "../ui/elements.js";

/** @typedef {import("../state/source.js").Source} Source */

const ON_FIRST_PAGE = 8;
// As varied as the photographs that the mapping was fitted to.
const TRUNCATION = 1;

export class Samples {
  /**
   * @param {import("../gateway/gateway.js").Gateway} gateway
   * @param {import("../gateway/models.js").Models} models
   * @param {{onChosen: (source: Source) => void, onError: (error: any) => void}} handlers
   */
  constructor(gateway, models, handlers) {
    this.gateway = gateway;
    this.models = models;
    this.handlers = handlers;
    this.nextSeed = 1;
    this.list = byId("samples");
    byId("more-samples").addEventListener("click", () => this.showOthers());
  }

  /** Shows new faces on the first page. */
  async showOthers() {
    const sources = await this.generate(ON_FIRST_PAGE);
    if (sources.length === 0) return;
    this.list.replaceChildren(...sources.map((source) => this.#item(source)));
  }

  /** Shows faces on the first page, unless some are there. */
  showSome() {
    if (this.list.childElementCount === 0) this.showOthers();
  }

  clear() {
    this.list.replaceChildren();
  }

  /**
   * New faces, each of a seed that was not used before.
   * @param {number} count
   * @returns {Promise<Source[]>}  empty after an error, which `onError` was called with
   */
  async generate(count) {
    const { bundle } = this.models;
    const seeds = Array.from({ length: count }, () => this.nextSeed++);
    const body = { bundle: bundle.name, seeds, truncation: TRUNCATION, output: pictureFormat(bundle) };
    try {
      const { codes, images } = await this.gateway.post("sample", body);
      return seeds.map((seed, index) =>
        sourceFrom({ bundle: bundle.name, code: codes[index], image: images[index], domain_score: NaN }, bundle, `Generated face ${seed}`),
      );
    } catch (error) {
      this.handlers.onError(error);
      return [];
    }
  }

  /** @param {Source} source */
  #item(source) {
    const choose = () => this.handlers.onChosen(source);
    return element("li", {}, element("button", { type: "button", class: "sample", "aria-label": `Edit ${source.name}`, onclick: choose }, thumbnail(source.picture)));
  }
}
