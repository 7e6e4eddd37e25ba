// @ts-check
// The panel of edits: a slider for each direction of a bundle, with its range, value, reset and lock; the bundle's
// presets; and the region that the edits are confined to.

import { NO_EDITS, written } from "../state/edits.js";
import { byId, element, icon } from "../ui/elements.js";

const STEP = 0.05;

/** @type {Record<string, import("../state/edits.js").Region>} */
const AREAS = {
  "Upper third": { left: 0, top: 0, right: 1, bottom: 0.36 },
  "Middle third": { left: 0, top: 0.32, right: 1, bottom: 0.68 },
  "Lower third": { left: 0, top: 0.64, right: 1, bottom: 1 },
  "Left half": { left: 0, top: 0, right: 0.5, bottom: 1 },
  "Right half": { left: 0.5, top: 0, right: 1, bottom: 1 },
};
/** The choice of an area that is drawn. */
const DRAWN = "Brush";

export class Directions {
  /**
   * @param {{
   *   onInput: (name: string, strength: number, askedAt: number) => void,
   *   onSettled: (label: string) => void,
   *   onPreset: (preset: import("../state/messages.js").Preset) => void,
   *   onKeep: (name: string, label: string, keep: boolean) => void,
   *   onReset: () => void,
   *   onArea: (region: import("../state/edits.js").Region | null, label: string) => void,
   *   onBrush: () => void,
   * }} handlers  `onInput` while a slider moves, `onSettled` when it is
   *   released; `askedAt`: ms of performance.now()
   */
  constructor(handlers) {
    this.handlers = handlers;
    /** @type {Map<string, {range: HTMLInputElement, value: HTMLOutputElement, reset: HTMLButtonElement, keep: HTMLButtonElement}>} */
    this.sliders = new Map();
    this.resetAll = /** @type {HTMLButtonElement} */ (byId("reset-all"));
    this.resetAll.addEventListener("click", () => handlers.onReset());
    this.area = /** @type {HTMLSelectElement} */ (byId("area"));
    this.area.append(...["Everywhere", ...Object.keys(AREAS), DRAWN].map((name) => element("option", {}, name)));
    this.area.addEventListener("change", () => {
      if (this.area.value === DRAWN) handlers.onBrush();
      else handlers.onArea(AREAS[this.area.value] ?? null, this.area.value);
    });
  }

  /** Builds the sliders and presets of a bundle. @param {import("../state/messages.js").Bundle} bundle */
  build(bundle) {
    this.sliders.clear();
    byId("sliders").replaceChildren(...bundle.directions.map((direction) => this.#slider(direction)));
    this.show(NO_EDITS);
    const presets = bundle.presets ?? [];
    byId("presets").hidden = presets.length === 0;
    byId("presets").replaceChildren(
      ...presets.map((preset) =>
        element("button", { class: "chip", type: "button", onclick: () => this.handlers.onPreset(preset) }, preset.label),
      ),
    );
  }

  /** @param {import("../state/edits.js").Edits} edits */
  show(edits) {
    for (const [name, { keep }] of this.sliders) {
      this.#showOne(name, edits.strengths[name] ?? 0);
      keep.setAttribute("aria-pressed", String(edits.keep.includes(name)));
    }
    const { region, mask } = edits;
    const named = Object.keys(AREAS).find((name) => JSON.stringify(AREAS[name]) === JSON.stringify(region));
    this.area.value = mask ? DRAWN : (named ?? "Everywhere");
    this.#showResetAll();
  }

  /** @param {import("../state/messages.js").Direction} direction */
  #slider({ name, label, range_min: lowest, range_max: highest }) {
    const id = `direction-${name}`;
    const range = element("input", {
      id,
      type: "range",
      // Multiples of the step, so that the slider can stand at 0.
      min: Math.ceil(lowest / STEP) * STEP,
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
    // Not live: the slider announces its value itself.
    const value = element("output", { for: id, "aria-live": "off" });
    const reset = element("button", { class: "icon-button small", type: "button", "aria-label": `Reset ${label}` }, icon("reset"));
    const toZero = () => {
      // The button disappears, so the focus goes to the slider.
      range.focus();
      this.#showOne(name, 0);
      this.#showResetAll();
      this.handlers.onInput(name, 0, performance.now());
      this.handlers.onSettled(`${label} reset`);
    };
    reset.addEventListener("click", toZero);
    range.addEventListener("dblclick", toZero);
    const what = `Keep ${label} as it is while others move`;
    const keep = element("button", { class: "icon-button small keep", type: "button", "aria-pressed": "false", "aria-label": what, title: what }, icon("lock"));
    keep.addEventListener("click", () => this.handlers.onKeep(name, label, keep.getAttribute("aria-pressed") !== "true"));
    this.sliders.set(name, { range, value, reset, keep });
    return element("div", { class: "slider" }, element("label", { for: id }, label), range, value, reset, keep);
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
