// @ts-check
// Whose face: where a photograph shows several, the visitor chooses one.

import { ask, byId, element } from "./elements.js";
import { drawInto } from "./stage.js";

const MARGIN = 0.35; // around a face's box, in parts of its longer side

/**
 * @typedef {{left: number, top: number, right: number, bottom: number}} Box  in pixels of the upright photograph
 * @typedef {{box: Box, unusable: string}} Face
 */

/**
 * Which face of a photograph is edited, in the order of find-faces. Where there is nothing to choose, the largest that can
 * be, or the largest: the gateway says what is wrong with it.
 * @param {Face[]} faces
 * @param {ImageBitmap} photograph
 * @returns {Promise<number>}  raises an AbortError where the visitor chooses none
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
