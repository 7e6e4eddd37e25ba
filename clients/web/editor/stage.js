// @ts-check
// The large picture: before and after, with a wipe between them.
//
// The pictures have few pixels. A browser scales an <img> bilinearly, which shows as crosses around every pixel. A canvas
// with smoothing "high" uses a bicubic filter.

import { drawInto } from "../ui/drawing.js";
import { byId } from "../ui/elements.js";

/** How far an arrow key moves the wipe, percent. */
const STEP = 2;

export class Stage {
  constructor() {
    this.frame = byId("frame");
    this.after = /** @type {HTMLCanvasElement} */ (byId("after"));
    this.before = /** @type {HTMLCanvasElement} */ (byId("before"));
    this.wipe = byId("wipe");
    /** @type {ImageBitmap | null} */
    this.afterBitmap = null;
    /** @type {ImageBitmap | null} */
    this.beforeBitmap = null;
    this.comparing = false;
    /** The part of the width that shows the picture before. */
    this.percent = 50;
    new ResizeObserver(() => this.#draw()).observe(this.frame);
    this.#followPointer();
    this.#followKeys();
    this.#moveWipe(this.percent);
  }

  /** @param {ImageBitmap} bitmap */
  showAfter(bitmap) {
    this.afterBitmap = bitmap;
    this.frame.style.setProperty("--ratio", String(bitmap.width / bitmap.height));
    drawInto(this.after, bitmap);
  }

  /** @param {ImageBitmap} bitmap */
  showBefore(bitmap) {
    this.beforeBitmap = bitmap;
    if (this.comparing) drawInto(this.before, bitmap);
  }

  /** @param {boolean} comparing */
  compare(comparing) {
    this.comparing = comparing;
    for (const id of ["before", "wipe", "tag-before", "tag-after"]) byId(id).hidden = !comparing;
    this.frame.classList.toggle("comparing", comparing);
    this.#draw();
  }

  #draw() {
    if (this.afterBitmap) drawInto(this.after, this.afterBitmap);
    if (this.beforeBitmap && this.comparing) drawInto(this.before, this.beforeBitmap);
  }

  /** @param {number} percent */
  #moveWipe(percent) {
    this.percent = Math.min(Math.max(percent, 0), 100);
    this.frame.style.setProperty("--wipe", `${this.percent}%`);
    this.wipe.setAttribute("aria-valuenow", String(Math.round(this.percent)));
    this.wipe.setAttribute("aria-valuetext", `Before on the left ${Math.round(this.percent)} percent`);
  }

  #followPointer() {
    /** @param {PointerEvent} event */
    const follow = (event) => {
      const { left, width } = this.frame.getBoundingClientRect();
      this.#moveWipe((100 * (event.clientX - left)) / width);
    };
    this.frame.addEventListener("pointerdown", (event) => {
      if (!this.comparing || event.button !== 0) return;
      this.frame.setPointerCapture(event.pointerId);
      this.frame.addEventListener("pointermove", follow);
      follow(event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.frame.addEventListener(end, () => this.frame.removeEventListener("pointermove", follow));
    }
  }

  #followKeys() {
    this.wipe.addEventListener("keydown", (event) => {
      /** @type {Record<string, number>} */
      const targets = {
        ArrowLeft: this.percent - STEP,
        ArrowDown: this.percent - STEP,
        ArrowRight: this.percent + STEP,
        ArrowUp: this.percent + STEP,
        PageDown: this.percent - 10,
        PageUp: this.percent + 10,
        Home: 0,
        End: 100,
      };
      const target = targets[event.key];
      if (target === undefined) return;
      event.preventDefault();
      this.#moveWipe(target);
    });
  }
}
