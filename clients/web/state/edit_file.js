// @ts-check
// The edit file: the JSON body of `POST /v1/edit` that gives the picture again, so that any program can send it.

import { NO_EDITS, decodedEdits, encodedEdits } from "./edits.js";
import { PictureError, pictureFormat } from "./pictures.js";
import { sourceFrom } from "./source.js";

const FLOAT_BYTES = 4;

/**
 * @param {import("./source.js").Source} source
 * @param {import("./edits.js").Edits} edits
 */
export function editFile(source, edits) {
  const body = { bundle: source.bundle.name, code: source.code, ...encodedEdits(edits) };
  return new Blob([`${JSON.stringify(body, null, 2)}\n`], { type: "application/json" });
}

/**
 * Reads an edit file, and asks the gateway for the picture of its code.
 * Throws PictureError where the file is not an edit file, or its bundle is not served here.
 * @param {File} file
 * @param {import("../gateway/gateway.js").Gateway} gateway
 * @param {import("./messages.js").Bundle[]} bundles
 * @returns {Promise<{source: import("./source.js").Source, edits: import("./edits.js").Edits}>}
 */
export async function openEditFile(file, gateway, bundles) {
  const { bundle: name, code, ...encoded } = parsed(await file.text(), file.name);
  const bundle = bundles.find((each) => each.name === name);
  if (!bundle) throw new PictureError(`“${file.name}” was made with the model “${name}”, which this gateway does not have. Open it where that model is served.`);
  const body = { bundle: name, code, ...encodedEdits(NO_EDITS), output: pictureFormat(bundle) };
  const result = await gateway.post("edit", body);
  return {
    source: sourceFrom(result, bundle, file.name.replace(/\.edit\.json$|\.json$/, "")),
    edits: decodedEdits(encoded),
  };
}

/**
 * @param {string} text
 * @param {string} name  of the file
 * @returns {{bundle: string, code: import("./messages.js").Code} & import("./edits.js").EncodedEdits}
 */
function parsed(text, name) {
  const fault = new PictureError(`“${name}” is not an edit that was saved here. Choose a picture, or a file that “Download, Edit” made.`);
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw fault;
  }
  const shape = body?.code?.shape;
  const complete = Array.isArray(shape) && typeof body.code.data === "string" && Array.isArray(body.edits) && typeof body.bundle === "string";
  if (!complete || decodedLength(body.code.data) !== FLOAT_BYTES * shape.reduce((product, size) => product * size, 1)) throw fault;
  return body;
}

/** Bytes that a base64 text stands for; -1: it is not base64. @param {string} base64 */
function decodedLength(base64) {
  try {
    return atob(base64).length;
  } catch {
    return -1;
  }
}
