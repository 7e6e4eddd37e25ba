// @ts-check
// A slider for every direction of a bundle, each with its range, its value and its reset; and the bundle's presets.

import { byId, element, icon } from "./elements.js";
import { written } from "./edits.js";

const STEP = 0.05;

export class Directions {
  /**
   * @param {{
   *   onInput: (name: string, strength: number, askedAt: number) => void,
   *   onSettled: (label: string) => void,
   *   onPreset: (preset: import("./gateway.js").Preset) => void,
   * }} handlers  `onInput` while a slider moves, `onSettled` when it is let go
   */
  constructor(handlers) {
    this.handlers = handlers;
    /** @type {Map<string, {range: HTMLInputElement, value: HTMLOutputElement, reset: HTMLButtonElement, label: string}>} */
    this.sliders = new Map();
    this.resetAll = /** @type {HTMLButtonElement} */ (byId("reset-all"));
  }

  /** @param {import("./gateway.js").Bundle} bundle */
  lay(bundle) {
    this.sliders.clear();
    byId("sliders").replaceChildren(...bundle.directions.map((direction) => this.#slider(direction)));
    const presets = bundle.presets ?? [];
    byId("presets").hidden = presets.length === 0;
    byId("presets").replaceChildren(
      ...presets.map((preset) =>
        element("button", { class: "chip", type: "button", onclick: () => this.handlers.onPreset(preset) }, preset.label),
      ),
    );
  }

  /** @param {import("./edits.js").Edits} edits */
  show(edits) {
    for (const name of this.sliders.keys()) this.#showOne(name, edits[name] ?? 0);
    this.#showResetAll();
  }

  /** @param {import("./gateway.js").Direction} direction */
  #slider({ name, label, range_min: lowest, range_max: highest }) {
    const id = `direction-${name}`;
    const range = element("input", {
      id,
      type: "range",
      min: Math.ceil(lowest / STEP) * STEP, // on the grid of steps, so that 0 is a place of the slider
      max: Math.floor(highest / STEP) * STEP,
      step: STEP,
      value: 0,
      oninput: (/** @type {Event} */ event) => {
        this.#showOne(name, strengthOf(range));
        this.#showResetAll();
        this.handlers.onInput(name, strengthOf(range), event.timeStamp);
      },
      onchange: () => this.handlers.onSettled(`${label} ${written(strengthOf(range))}`),
    });
    const value = element("output", { for: id });
    const reset = element("button", { class: "icon-button small", type: "button", "aria-label": `Reset ${label}` }, icon("reset"));
    const toZero = () => {
      range.focus(); // the button goes away
      this.#showOne(name, 0);
      this.#showResetAll();
      this.handlers.onInput(name, 0, performance.now());
      this.handlers.onSettled(`${label} reset`);
    };
    reset.addEventListener("click", toZero);
    range.addEventListener("dblclick", toZero);
    this.sliders.set(name, { range, value, reset, label });
    return element("div", { class: "slider" }, element("label", { for: id }, label), range, value, reset);
  }

  /**
   * @param {string} name
   * @param {number} strength
   */
  #showOne(name, strength) {
    const slider = this.sliders.get(name);
    if (!slider) return;
    const { range, value, reset } = slider;
    range.value = String(strength);
    range.setAttribute("aria-valuetext", written(strength));
    value.textContent = written(strength);
    reset.classList.toggle("gone", strength === 0);
    reset.disabled = strength === 0;
    const lowest = Number(range.min);
    const share = (/** @type {number} */ place) => (place - lowest) / (Number(range.max) - lowest);
    const [from, to] = [share(Math.min(0, strength)), share(Math.max(0, strength))];
    range.style.setProperty("--from", String(from));
    range.style.setProperty("--to", String(to));
    range.style.setProperty("--zero", String(share(0)));
  }

  #showResetAll() {
    this.resetAll.disabled = [...this.sliders.values()].every(({ range }) => strengthOf(range) === 0);
  }
}

/** @param {HTMLInputElement} range */
function strengthOf(range) {
  return Math.round(100 * Number(range.value)) / 100;
}
