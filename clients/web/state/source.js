// @ts-check
// A source: the code that edits start from, with its picture, and the photograph that it was inverted from, if any.
// Sources do not change, but for the handle, which the gateway may forget.

import { encodedEdits, isNone } from "./edits.js";
import { blobOf } from "./pictures.js";

/** A square that covers a larger part of the photograph than this counts as all of it. */
const WHOLE = 0.98;

/**
 * @typedef {object} Source
 * @property {import("./messages.js").Code} code
 * @property {string} handle  the gateway's name for the code, for as long as it keeps it; empty: none
 * @property {import("./messages.js").Bundle} bundle
 * @property {Blob} picture  of the code, without edits
 * @property {number} domainScore  NaN: not known
 * @property {number | undefined} identityScore  how likely `picture` and the photograph show one person; undefined: not known
 * @property {Blob | null} aligned  the photograph as the encoder saw it
 * @property {import("./pictures.js").Photograph | null} photograph
 * @property {import("./messages.js").Align | undefined} align  how the photograph was aligned; undefined: the bundle's way
 * @property {boolean} isPart  whether the code shows only a part of the photograph
 * @property {number} faces  on the photograph; 0: nobody looked for them
 * @property {string} name  for people and for file names
 */

/**
 * @param {import("./messages.js").Result} result  with code and image
 * @param {import("./messages.js").Bundle} bundle
 * @param {string} name
 * @param {{photograph?: import("./pictures.js").Photograph | null, align?: import("./messages.js").Align}} [origin]
 * @returns {Source}
 */
export function sourceFrom(result, bundle, name, { photograph = null, align } = {}) {
  const { data, shape, handle = "" } = result.code;
  return {
    code: { data, shape },
    handle,
    bundle,
    picture: blobOf(/** @type {import("./messages.js").EncodedPicture} */ (result.image)),
    domainScore: result.domain_score ?? NaN,
    identityScore: result.identity_score,
    aligned: result.aligned ? blobOf(result.aligned) : null,
    photograph,
    align,
    isPart: result.placement !== undefined && coverage(result.placement) < WHOLE,
    faces: photograph ? (result.placement?.faces ?? 0) : 0,
    name,
  };
}

/**
 * The code of a source with edits applied.
 * @param {import("../gateway/gateway.js").Gateway} gateway
 * @param {Source} source
 * @param {import("./edits.js").Edits} edits
 * @returns {Promise<import("./messages.js").Code>}
 */
export async function editedCode(gateway, source, edits) {
  if (isNone(edits)) return source.code;
  const body = { bundle: source.bundle.name, code: source.code, ...encodedEdits(edits), output: { omit_image: true } };
  const { code } = await gateway.post("edit", body);
  return { data: code.data, shape: code.shape };
}

/**
 * The part of a photograph that its square covers, 0..1.
 * @param {import("./messages.js").Placement} placement
 */
function coverage({ width, height, corners: [a, b] }) {
  return ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) / (width * height);
}
