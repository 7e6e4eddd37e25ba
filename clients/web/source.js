// @ts-check
// What edits start from: a code with its picture, and the photograph where it came from one. Sources do not change
// (but for the handle, which the gateway may forget).

import { blobOf } from "./pictures.js";

/**
 * @typedef {object} Source
 * @property {import("./gateway.js").Code} code
 * @property {string} handle  the gateway's name for the code, as long as it keeps it; empty: none
 * @property {import("./gateway.js").Bundle} bundle
 * @property {Blob} picture  of the code, without edits
 * @property {number} domainScore  NaN: not known
 * @property {Blob | null} aligned  the photograph as the encoder saw it
 * @property {import("./pictures.js").Photograph | null} photograph
 * @property {number | null} face  which face of the photograph
 * @property {string} name  for people and for file names
 */

/**
 * @param {import("./gateway.js").Result} result  with code and image
 * @param {import("./gateway.js").Bundle} bundle
 * @param {string} name
 * @param {{photograph?: import("./pictures.js").Photograph | null, face?: number | null}} [origin]
 * @returns {Source}
 */
export function sourceFrom(result, bundle, name, { photograph = null, face = null } = {}) {
  const { data, shape, handle = "" } = result.code;
  return {
    code: { data, shape },
    handle,
    bundle,
    picture: blobOf(/** @type {import("./gateway.js").EncodedPicture} */ (result.image)),
    domainScore: result.domain_score ?? NaN,
    aligned: result.aligned ? blobOf(result.aligned) : null,
    photograph,
    face,
    name,
  };
}

/**
 * The code of a source with edits applied.
 * @param {import("./gateway.js").Gateway} gateway
 * @param {Source} source
 * @param {import("./gateway.js").EditStep[]} edits
 * @returns {Promise<import("./gateway.js").Code>}
 */
export async function editedCode(gateway, source, edits) {
  if (edits.length === 0) return source.code;
  const body = { bundle: source.bundle.name, code: source.code, edits, output: { omit_image: true } };
  const { code } = await gateway.post("edit", body);
  return { data: code.data, shape: code.shape };
}
