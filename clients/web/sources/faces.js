// @ts-check
// Which face: where a photograph shows several, the visitor chooses one.

import { drawInto } from "../ui/drawing.js";
import { ask, byId, element } from "../ui/elements.js";

/** Shown around a face's box, in parts of its longer side. */
const MARGIN = 0.35;

/** @typedef {import("../state/messages.js").Face} Face */

/**
 * The index of the face to edit. Asks only where several can be edited. Where none can be, it is the largest, and the
 * gateway will say why not.
 * Throws an AbortError where the visitor chooses none.
 * @param {Face[]} faces  the largest first
 * @param {ImageBitmap} photograph
 * @returns {Promise<number>}
 */
export async function chosenFace(faces, photograph) {
  const usable = faces.filter(({ unusable }) => !unusable);
  if (usable.length < 2) return Math.max(0, faces.indexOf(usable[0]));
  const index = await ask(/** @type {HTMLDialogElement} */ (byId("faces-dialog")), (close) => {
    byId("faces-cancel").onclick = () => close(null);
    byId("faces").replaceChildren(...faces.map((face, number) => item(face, number, photograph, () => close(number))));
  });
  if (index === null) throw new DOMException("No face was chosen.", "AbortError");
  return index;
}

/**
 * @param {Face} face
 * @param {number} number
 * @param {ImageBitmap} photograph
 * @param {() => void} choose
 */
function item({ box, unusable }, number, photograph, choose) {
  const canvas = element("canvas", { "aria-hidden": "true" });
  const label = `Face ${number + 1}`;
  const button = element("button", { type: "button", class: "face", disabled: unusable !== "", onclick: choose }, canvas, element("span", { class: "caption" }, unusable || label));
  const side = Math.max(box.right - box.left, box.bottom - box.top) * (1 + 2 * MARGIN);
  const left = (box.left + box.right - side) / 2;
  const top = (box.top + box.bottom - side) / 2;
  createImageBitmap(photograph, Math.round(left), Math.round(top), Math.max(1, Math.round(side)), Math.max(1, Math.round(side))).then((cut) => drawInto(canvas, cut));
  return element("li", {}, button);
}
