// @ts-check
// The brush: an area to which edits are confined, and strokes of colour which the picture follows, drawn on the face.
// Each is a drawing of its own, kept in the edits as a PNG, so that undo and the edit file have it.

import { blobOf } from "../state/pictures.js";
import { byId, element } from "../ui/elements.js";
import { Surface } from "../ui/surface.js";

/** Pixels of a drawing's sides. */
const SIDE = 256;
const HINTS = {
  area: "Draw where the picture may change; edits stay within.",
  colour: "Paint a colour where you want it: the picture follows as far as it stays natural.",
};

/** @typedef {"area" | "colour"} Kind */

export class Brush {
  /**
   * @param {{onStart: () => void, onArea: (mask: string | null, label: string) => void, onStrokes: (strokes: string | null, label: string) => void}} handlers
   *   `onStart`: drawing begins, and the face must be seen; the others: a drawing is another one, a PNG in base64
   */
  constructor(handlers) {
    this.handlers = handlers;
    this.canvas = /** @type {HTMLCanvasElement} */ (byId("drawing"));
    this.colour = /** @type {HTMLInputElement} */ (byId("brush-colour"));
    this.size = /** @type {HTMLInputElement} */ (byId("brush-size"));
    this.erase = /** @type {HTMLInputElement} */ (byId("brush-erase"));
    this.clear = /** @type {HTMLButtonElement} */ (byId("brush-clear"));
    this.modes = /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input[name=brush]"));
    /** What is being drawn; null: nothing. @type {Kind | null} */
    this.kind = null;
    /** @type {Record<Kind, CanvasRenderingContext2D>} */
    this.layers = { area: layer(), colour: layer() };
    /** The drawings as they are in the edits. @type {Record<Kind, string | null>} */
    this.drawings = { area: null, colour: null };
    /** Whether the picture that is seen has the strokes already. */
    this.followed = true;
    this.surface = new Surface(this.canvas, {
      onLine: (from, to) => this.#line(from, to),
      onEnd: () => this.#settle(this.erase.checked ? "Erased" : "Drawn"),
      onCursor: () => this.#paint(),
    });
    new ResizeObserver(() => this.#paint()).observe(this.canvas);
    for (const radio of this.modes) radio.addEventListener("change", () => this.#choose(radio.value));
    this.erase.addEventListener("change", () => this.#paint());
    this.size.addEventListener("input", () => this.#showSize());
    this.clear.addEventListener("click", () => {
      if (!this.kind) return;
      wipe(this.layers[this.kind]);
      this.#settle("Cleared");
    });
    this.#showSize();
  }

  /** Begins to draw. @param {Kind} kind */
  start(kind) {
    this.#choose(kind);
  }

  stop() {
    this.#choose("none");
  }

  /** Shows the drawings of edits that come from elsewhere, as the history. @param {import("../state/edits.js").Edits} edits */
  show({ mask, strokes }) {
    this.#load("area", mask);
    this.#load("colour", strokes);
  }

  /** The picture of edits is seen: strokes that it follows need no longer lie on it. @param {import("../state/edits.js").Edits} edits */
  shown({ strokes }) {
    this.followed = strokes === this.drawings.colour;
    this.#paint();
  }

  /** @param {string} value  a kind, or "none" */
  #choose(value) {
    const begins = !this.kind && value !== "none";
    this.kind = value === "area" || value === "colour" ? value : null;
    for (const radio of this.modes) radio.checked = radio.value === (this.kind ?? "none");
    this.canvas.hidden = !this.kind;
    byId("brush-tools").hidden = !this.kind;
    byId("brush-colour-field").hidden = this.kind !== "colour";
    if (this.kind) byId("brush-hint").textContent = HINTS[this.kind];
    if (begins) {
      this.handlers.onStart();
      this.canvas.scrollIntoView({ block: "nearest" });
    }
    this.#paint();
  }

  #showSize() {
    const { size } = this;
    size.style.setProperty("--to", String((Number(size.value) - Number(size.min)) / (Number(size.max) - Number(size.min))));
    size.setAttribute("aria-valuetext", `${size.value} percent of the picture`);
    this.#paint();
  }

  /**
   * @param {import("../ui/surface.js").Point} from
   * @param {import("../ui/surface.js").Point} to
   */
  #line(from, to) {
    if (!this.kind) return;
    const context = this.layers[this.kind];
    context.globalCompositeOperation = this.erase.checked ? "destination-out" : "source-over";
    const colour = this.kind === "area" ? "#ffffff" : this.colour.value;
    const width = (SIDE * Number(this.size.value)) / 100;
    Object.assign(context, { strokeStyle: colour, fillStyle: colour, lineWidth: width });
    context.beginPath();
    context.moveTo(SIDE * from.x, SIDE * from.y);
    context.lineTo(SIDE * to.x, SIDE * to.y);
    context.stroke();
    // A line from a point to itself is not drawn.
    context.beginPath();
    context.arc(SIDE * to.x, SIDE * to.y, width / 2, 0, 2 * Math.PI);
    context.fill();
    if (this.kind === "colour") this.followed = false;
    this.#paint();
  }

  /** Puts the drawing as it is now into the edits. @param {string} what  was done, for the history */
  #settle(what) {
    const { kind } = this;
    if (!kind) return;
    const drawing = encoded(this.layers[kind], kind);
    if (drawing === this.drawings[kind]) return;
    this.drawings[kind] = drawing;
    if (kind === "area") this.handlers.onArea(drawing, `Area: ${what.toLowerCase()}`);
    else this.handlers.onStrokes(drawing, `Colours: ${what.toLowerCase()}`);
    this.#paint();
  }

  /**
   * @param {Kind} kind
   * @param {string | null} drawing
   */
  async #load(kind, drawing) {
    if (this.drawings[kind] === drawing) return;
    this.drawings[kind] = drawing;
    const bitmap = drawing && (await createImageBitmap(blobOf({ data: drawing, format: "png", width: SIDE, height: SIDE })));
    if (this.drawings[kind] !== drawing) return;
    const context = this.layers[kind];
    wipe(context);
    if (bitmap) context.drawImage(bitmap, 0, 0, SIDE, SIDE);
    if (bitmap && kind === "area") whiteOnly(context);
    this.#paint();
  }

  /** Paints what is drawn, over the picture. */
  #paint() {
    const { canvas, kind } = this;
    this.clear.disabled = !kind || this.drawings[kind] === null;
    if (!kind) return;
    canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
    canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const { width, height } = canvas;
    if (width === 0 || height === 0) return;
    const { color } = getComputedStyle(canvas);
    if (kind === "area") {
      context.drawImage(this.layers.area.canvas, 0, 0, width, height);
      context.globalCompositeOperation = "source-in";
      context.fillStyle = color;
      context.fillRect(0, 0, width, height);
    } else if (!this.followed || this.erase.checked) {
      context.drawImage(this.layers.colour.canvas, 0, 0, width, height);
    }
    const { cursor } = this.surface;
    if (!cursor || !canvas.matches(":focus-visible")) return;
    context.globalCompositeOperation = "source-over";
    for (const [line, lineWidth] of /** @type {[string, number][]} */ ([["#000", 4], ["#fff", 2]])) {
      Object.assign(context, { strokeStyle: line, lineWidth: lineWidth * devicePixelRatio });
      context.beginPath();
      context.arc(cursor.x * width, cursor.y * height, (width * Number(this.size.value)) / 200, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}

/** A transparent drawing, and how lines are drawn in it. */
function layer() {
  const canvas = element("canvas", { width: SIDE, height: SIDE });
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  return Object.assign(context, { lineCap: "round", lineJoin: "round" });
}

/** @param {CanvasRenderingContext2D} context */
function wipe(context) {
  context.clearRect(0, 0, SIDE, SIDE);
}

/** Makes the black of a mask transparent. @param {CanvasRenderingContext2D} context */
function whiteOnly(context) {
  const pixels = context.getImageData(0, 0, SIDE, SIDE);
  for (let at = 0; at < pixels.data.length; at += 4) {
    pixels.data[at + 3] = pixels.data[at];
    pixels.data.fill(255, at, at + 3);
  }
  context.putImageData(pixels, 0, 0);
}

/**
 * A drawing as PNG in base64, an area white on black; null where it is empty.
 * @param {CanvasRenderingContext2D} context
 * @param {Kind} kind
 */
function encoded(context, kind) {
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  if (data.every((value, at) => at % 4 !== 3 || value === 0)) return null;
  let { canvas } = context;
  if (kind === "area") {
    canvas = element("canvas", { width: SIDE, height: SIDE });
    const onBlack = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    onBlack.fillRect(0, 0, SIDE, SIDE);
    onBlack.drawImage(context.canvas, 0, 0);
  }
  return canvas.toDataURL("image/png").replace(/^.*,/, "");
}
