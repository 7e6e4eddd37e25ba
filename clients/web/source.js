// @ts-check
// What edits start from: a code with its picture, and the photograph where it came from one. Sources do not change
// (but for the handle, which the gateway may forget).

import { encodedEdits, isNone } from "./edits.js";
import { blobOf } from "./pictures.js";

const WHOLE = 0.98; // a square that covers more of a photograph than this is all of it

/**
 * @typedef {object} Source
 * @property {import("./gateway.js").Code} code
 * @property {string} handle  the gateway's name for the code, as long as it keeps it; empty: none
 * @property {import("./gateway.js").Bundle} bundle
 * @property {Blob} picture  of the code, without edits
 * @property {number} domainScore  NaN: not known
 * @property {Blob | null} aligned  the photograph as the encoder saw it
 * @property {import("./pictures.js").Photograph | null} photograph
 * @property {import("./gateway.js").Align | undefined} align  how the photograph was brought into place, where not as
 *   the bundle has it
 * @property {boolean} isPart  whether the code's square is a part of the photograph only
 * @property {string} name  for people and for file names
 */

/**
 * @param {import("./gateway.js").Result} result  with code and image
 * @param {import("./gateway.js").Bundle} bundle
 * @param {string} name
 * @param {{photograph?: import("./pictures.js").Photograph | null, align?: import("./gateway.js").Align}} [origin]
 * @returns {Source}
 */
export function sourceFrom(result, bundle, name, { photograph = null, align } = {}) {
  const { data, shape, handle = "" } = result.code;
  return {
    code: { data, shape },
    handle,
    bundle,
    picture: blobOf(/** @type {import("./gateway.js").EncodedPicture} */ (result.image)),
    domainScore: result.domain_score ?? NaN,
    aligned: result.aligned ? blobOf(result.aligned) : null,
    photograph,
    align,
    isPart: result.placement !== undefined && coverage(result.placement) < WHOLE,
    name,
  };
}

/**
 * The code of a source with edits applied.
 * @param {import("./gateway.js").Gateway} gateway
 * @param {Source} source
 * @param {import("./edits.js").Edits} edits
 * @returns {Promise<import("./gateway.js").Code>}
 */
export async function editedCode(gateway, source, edits) {
  if (isNone(edits)) return source.code;
  const body = { bundle: source.bundle.name, code: source.code, ...encodedEdits(edits), output: { omit_image: true } };
  const { code } = await gateway.post("edit", body);
  return { data: code.data, shape: code.shape };
}

/**
 * The part of a photograph that lies in its square.
 * @param {import("./gateway.js").Placement} placement
 */
function coverage({ width, height, corners: [a, b] }) {
  return ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) / (width * height);
}
