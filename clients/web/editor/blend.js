// @ts-check
// Blends two pictures: the pictures between them, the style of the second in the first, or the first's face in the
// second's surroundings. The result can become the picture to edit.

import { described } from "../state/edits.js";
import { blobOf, pictureFormat } from "../state/pictures.js";
import { editedCode, sourceFrom } from "../state/source.js";
import { thumbnail } from "../ui/drawing.js";
import { byId, element } from "../ui/elements.js";

/** With both ends. */
const PICTURES_BETWEEN = 13;
const MODES = { between: "Between", style: "Style", surroundings: "Surroundings" };
/** Thirds of a code's layers, from coarse to fine. */
const PARTS = ["Pose and shape", "Features", "Colours and light"];

/**
 * @typedef {import("./strip.js").Variant} Variant
 * @typedef {import("../state/messages.js").Result} Result
 */

export class Blend {
  /**
   * @param {import("../gateway/gateway.js").Gateway} gateway
   * @param {{
   *   onPicture: (result: Result) => void,
   *   onUse: (source: import("../state/source.js").Source, label: string) => void,
   *   onError: (error: any) => void,
   *   onBusy: (busy: boolean) => void,
   *   choosePicture: () => void,
   *   generate: () => void,
   * }} handlers
   */
  constructor(gateway, handlers) {
    this.gateway = gateway;
    this.handlers = handlers;
    /** @type {Variant | null} */
    this.first = null;
    /** @type {Variant[]} pictures that were chosen for blending only */
    this.brought = [];
    /** @type {Variant[]} of the compare strip */
    this.kept = [];
    /** @type {Variant | null} */
    this.second = null;
    /** @type {Result[]} */
    this.between = [];
    /** @type {Result | null} the result that is shown */
    this.seen = null;
    /** @type {Promise<import("../state/messages.js").Code[]> | null} */
    this.codes = null;
    this.work = new AbortController();
    this.mixWanted = false;
    /** @type {Promise<void> | null} */
    this.mixing = null;

    this.seconds = element("div", { class: "seconds", role: "radiogroup", "aria-label": "Second picture" });
    this.modes = Object.keys(MODES).map((value, index) => element("input", { type: "radio", name: "blend-mode", value, checked: index === 0, onchange: () => this.#begin() }));
    this.place = element("input", { id: "blend-place", type: "range", min: 0, max: PICTURES_BETWEEN - 1, step: 1, value: Math.floor(PICTURES_BETWEEN / 2), oninput: () => this.#showBetween() });
    this.geodesic = element("input", { type: "checkbox", onchange: () => this.#begin() });
    this.percent = element("output", { for: "blend-place", "aria-live": "off" });
    this.strength = element("input", { id: "blend-strength", type: "range", min: 0, max: 1, step: 0.05, value: 1, oninput: () => this.#mix() });
    this.parts = PARTS.map((_, index) => element("input", { type: "checkbox", checked: index === PARTS.length - 1, onchange: () => this.#mix() }));
    this.betweenControls = element(
      "div",
      {},
      element("div", { class: "slider" }, element("label", { for: "blend-place" }, "From the first to the second"), this.place, this.percent),
      element("div", { class: "checks" }, element("label", {}, this.geodesic, "In steps that change least (slower)")),
    );
    this.styleControls = element(
      "div",
      { class: "style-controls" },
      element("fieldset", { class: "checks" }, element("legend", {}, "Taken from the second"), ...PARTS.map((label, index) => element("label", {}, this.parts[index], label))),
      element("div", { class: "slider" }, element("label", { for: "blend-strength" }, "How much of it"), this.strength),
    );
    this.use = element("button", { class: "button primary", type: "button", disabled: true, onclick: () => this.#use() }, "Edit this one");
    this.hint = element("p", { class: "hint" });
    byId("panel-blend").append(
      element("h2", {}, "Second picture"),
      this.seconds,
      element("div", { class: "row" }, element("button", { class: "button", type: "button", onclick: handlers.choosePicture }, "Choose a picture"), element("button", { class: "button", type: "button", onclick: handlers.generate }, "A generated face")),
      element("fieldset", { class: "segments" }, element("legend", { class: "unseen" }, "How to blend"), ...Object.values(MODES).map((label, index) => element("label", {}, this.modes[index], element("span", {}, label)))),
      this.betweenControls,
      this.styleControls,
      this.hint,
      this.use,
    );
  }

  get isOpen() {
    return this.first !== null;
  }

  /** @param {Variant} first */
  open(first) {
    this.first = first;
    this.#showSeconds();
    this.#begin();
  }

  close() {
    this.work.abort();
    this.first = null;
    this.seen = null;
  }

  /** Offers the kept variants as second pictures. @param {Variant[]} variants */
  offer(variants) {
    this.kept = [...variants];
    if (this.isOpen) this.#showSeconds();
  }

  /** Blends with a picture that was chosen for this. @param {Variant} variant */
  bring(variant) {
    this.brought.push(variant);
    this.second = variant;
    this.#showSeconds();
    this.#begin();
  }

  get mode() {
    return this.modes.find((radio) => radio.checked)?.value;
  }

  #showSeconds() {
    const bundle = this.first?.source.bundle;
    const offered = [...this.kept, ...this.brought].filter(({ source }) => source.bundle === bundle);
    if (this.second && !offered.includes(this.second)) this.second = null;
    this.seconds.replaceChildren(
      ...offered.map((variant) => {
        const radio = element("input", { type: "radio", name: "blend-second", checked: variant === this.second, class: "unseen" });
        radio.addEventListener("change", () => {
          this.second = variant;
          this.#begin();
        });
        const label = variant.source.name === this.first?.source.name ? described(variant.edits, variant.source.bundle) : variant.source.name;
        return element("label", { class: "second" }, radio, thumbnail(variant.picture), element("span", { class: "caption" }, label));
      }),
    );
  }

  /** Begins again, with another second picture or another mode. */
  #begin() {
    this.work.abort();
    this.work = new AbortController();
    this.between = [];
    this.codes = null;
    this.seen = null;
    this.use.disabled = true;
    this.betweenControls.hidden = this.mode !== "between";
    this.styleControls.hidden = this.mode !== "style";
    this.hint.textContent = this.second ? "Working …" : "Keep a variant, choose a picture or generate a face to blend with.";
    for (const control of [this.place, this.geodesic, this.strength, ...this.parts]) control.disabled = !this.second;
    this.#showPercent();
    this.handlers.onBusy(false);
    if (!this.first || !this.second) return;
    if (this.mode === "style") return this.#mix();
    this.#awaited(this.mode === "between" ? this.#interpolate(this.work.signal) : this.#diffuse(this.work.signal));
  }

  /** Says that pictures are awaited until `work` ends, or other work begins. @param {Promise<void>} work */
  async #awaited(work) {
    const { signal } = this.work;
    this.handlers.onBusy(true);
    try {
      await work;
    } catch (error) {
      this.#failed(error);
    }
    if (!signal.aborted) this.handlers.onBusy(false);
  }

  /** @param {any} error */
  #failed(error) {
    if (error.name === "AbortError") return;
    this.hint.textContent = "";
    this.handlers.onError(error);
  }

  async #bothCodes() {
    const [first, second] = [this.first, this.second];
    if (!first || !second) throw new DOMException("closed", "AbortError");
    this.codes ??= Promise.all([first, second].map(({ source, edits }) => editedCode(this.gateway, source, edits)));
    return this.codes;
  }

  /** @param {AbortSignal} signal */
  async #interpolate(signal) {
    const [start, end] = await this.#bothCodes();
    signal.throwIfAborted();
    const { bundle } = /** @type {Variant} */ (this.second).source;
    const body = { start: { code: start }, end: { code: end }, count: PICTURES_BETWEEN, path: this.geodesic.checked ? "geodesic" : "linear", bundle: bundle.name, output: pictureFormat(bundle) };
    for await (const result of this.gateway.interpolate(body, signal)) {
      this.between[result.index] = result;
      this.#showBetween();
    }
  }

  /** Semantic diffusion: the first's face in the second's surroundings. @param {AbortSignal} signal */
  async #diffuse(signal) {
    const [first, second] = [this.first, this.second];
    if (!first || !second) return;
    const { bundle } = second.source;
    const pictures = { target: first.picture, context: second.picture };
    const result = await this.gateway.send("diffuse", pictures, { bundle: bundle.name, output: pictureFormat(bundle) }, signal);
    signal.throwIfAborted();
    this.#see(result);
  }

  #showBetween() {
    this.#showPercent();
    const result = this.between[Number(this.place.value)] ?? this.between.at(-1);
    if (result) this.#see(result);
  }

  #showPercent() {
    const percent = Math.round((100 * Number(this.place.value)) / (PICTURES_BETWEEN - 1));
    this.percent.value = `${percent} %`;
    this.place.setAttribute("aria-valuetext", `${percent} percent of the second`);
    for (const range of [this.place, this.strength]) range.style.setProperty("--to", String(Number(range.value) / Number(range.max)));
  }

  /** Sends one request at a time. Of those wanted meanwhile only the newest is sent. */
  #mix() {
    this.#showPercent();
    this.mixWanted = true;
    if (this.mixing || !this.second) return;
    this.mixing = this.#awaited(this.#mixUntilNewest(this.work.signal)).then(() => {
      this.mixing = null;
      if (this.mixWanted && this.isOpen && this.mode === "style") this.#mix();
    });
  }

  /** @param {AbortSignal} signal */
  async #mixUntilNewest(signal) {
    while (this.mixWanted) {
      this.mixWanted = false;
      const { bundle } = /** @type {Variant} */ (this.second).source;
      const codes = await this.#bothCodes();
      const layers = Array.from({ length: bundle.layers }, (_, layer) => layer).filter((layer) => this.parts[Math.floor((layer * PARTS.length) / bundle.layers)].checked);
      const [base, style] = codes;
      const body = { base: { code: base }, style: { code: style }, layers, strength: Number(this.strength.value), bundle: bundle.name, output: pictureFormat(bundle) };
      // The gateway takes no empty list. At strength 0 the first picture stays as it is.
      if (layers.length === 0) Object.assign(body, { layers: [0], strength: 0 });
      const result = await this.gateway.post("mix", body, signal);
      signal.throwIfAborted();
      this.#see(result);
    }
  }

  /** @param {Result} result */
  #see(result) {
    this.seen = result;
    this.hint.textContent = this.mode === "surroundings" ? "The first face, in what is around the second." : "";
    this.use.disabled = false;
    this.handlers.onPicture(result);
  }

  #use() {
    const { first, second, seen } = this;
    if (!first || !second || !seen) return;
    const name = `${first.source.name} and ${second.source.name}`;
    this.handlers.onUse(sourceFrom(seen, first.source.bundle, name), `Blend: ${this.mode}`);
  }
}

/** The picture of a result. @param {Result} result */
export function pictureOf(result) {
  return blobOf(/** @type {import("../state/messages.js").EncodedPicture} */ (result.image));
}
