// @ts-check
// The picture, shown large: before and after with a wipe between them.
//
// The pictures have few pixels. The browser's own scaling of an <img> is bilinear, which leaves crosses around every
// one of them; a canvas with its smoothing at "high" scales by a bicubic filter, to the pixels of the screen.

import { byId } from "./elements.js";

const STEP = 2; // of the wipe by an arrow key, in percent

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
    this.percent = 50; // of the width that shows what was before
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

/**
 * @param {HTMLCanvasElement} canvas  filled as far as it is laid out
 * @param {ImageBitmap} bitmap
 */
export function drawInto(canvas, bitmap) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio);
  const height = Math.round(canvas.clientHeight * devicePixelRatio);
  if (width === 0 || height === 0) return;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
}
