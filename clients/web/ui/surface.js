// @ts-check
// A canvas to draw on with a mouse, a finger, a pen or the keyboard. It says where the pen goes; it paints nothing.

/** How far an arrow key moves the pen, in parts of the canvas's sides. */
const STEP = 0.02;
/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

/** @typedef {{x: number, y: number}} Point  in parts of the canvas's sides */

export class Surface {
  /** The pen of the keyboard; null: the keyboard is elsewhere. @type {Point | null} */
  cursor = null;
  /** @type {Point | null} */
  #last = null;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{onLine: (from: Point, to: Point) => void, onEnd: () => void, onCursor: () => void}} handlers
   *   `onLine`: the pen drew from one point to another; `onEnd`: it was lifted; `onCursor`: it moved without drawing
   */
  constructor(canvas, handlers) {
    this.canvas = canvas;
    this.handlers = handlers;
    this.#followPointer();
    this.#followKeys();
  }

  #followPointer() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || event.button !== 0) return;
      // The frame below would move the wipe.
      event.stopPropagation();
      canvas.setPointerCapture(event.pointerId);
      this.#draw(this.#pointOf(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.#last || !event.isPrimary) return;
      const passed = event.getCoalescedEvents?.() ?? [];
      for (const each of passed.length ? passed : [event]) this.#draw(this.#pointOf(each));
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.#lift());
  }

  /** Arrow keys move the pen, and draw with Shift; Space and Enter make a dot. */
  #followKeys() {
    const { canvas, handlers } = this;
    canvas.addEventListener("focus", () => this.#moveCursor({ x: 0.5, y: 0.5 }));
    canvas.addEventListener("blur", () => {
      this.#lift();
      this.cursor = null;
      handlers.onCursor();
    });
    canvas.addEventListener("keydown", (event) => {
      const { cursor } = this;
      const arrow = ARROWS[event.key];
      if (!cursor || event.ctrlKey || event.metaKey || event.altKey) return;
      if (arrow) {
        const next = { x: inside(cursor.x + arrow[0]), y: inside(cursor.y + arrow[1]) };
        if (event.shiftKey) {
          if (!this.#last) this.#draw(cursor);
          this.#draw(next);
        }
        this.#moveCursor(next);
      } else if (event.key === " " || event.key === "Enter") {
        this.#draw(cursor);
        this.#lift();
      } else {
        return;
      }
      event.preventDefault();
    });
    canvas.addEventListener("keyup", ({ key }) => key === "Shift" && this.#lift());
  }

  /** @param {Point} point */
  #draw(point) {
    this.handlers.onLine(this.#last ?? point, point);
    this.#last = point;
  }

  #lift() {
    if (!this.#last) return;
    this.#last = null;
    this.handlers.onEnd();
  }

  /** @param {Point} point */
  #moveCursor(point) {
    this.cursor = point;
    this.handlers.onCursor();
  }

  /** @param {PointerEvent} event */
  #pointOf({ clientX, clientY }) {
    const { left, top, width, height } = this.canvas.getBoundingClientRect();
    return { x: (clientX - left) / width, y: (clientY - top) / height };
  }
}

/** @param {number} place */
function inside(place) {
  return Math.min(Math.max(place, 0), 1);
}
