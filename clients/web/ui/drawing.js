// @ts-check
// Pictures on the page: small ones as images, large ones on a canvas.

import { element } from "./elements.js";

/**
 * A small picture. It has no text of its own: the text beside it says what it is.
 * @param {Blob} blob
 */
export function thumbnail(blob) {
  const image = element("img", { alt: "", src: URL.createObjectURL(blob), draggable: "false" });
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  return image;
}

/**
 * Draws a picture over the whole canvas, with a bicubic filter, at the screen's own resolution.
 * @param {HTMLCanvasElement} canvas
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
