// @ts-check
// Pictures as they come into the page: from files, the clipboard, a drop, the camera, and out of answers.

/** @typedef {{blob: Blob, bitmap: ImageBitmap, name: string, base64?: string}} Photograph  `base64` once it was needed */

/** A file that is no picture; `message` says so and what to do. */
export class PictureError extends Error {}

const SENT_AS_THEY_ARE = new Set(["image/png", "image/jpeg", "image/webp"]);

/**
 * A photograph that the gateway takes: of a type that it reads, within its limits. Raises PictureError.
 * @param {Blob} file
 * @param {string} name
 * @param {import("./gateway.js").Limits} limits
 * @returns {Promise<Photograph>}
 */
export async function readPhotograph(file, name, limits) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new PictureError(`${name ? `“${name}”` : "This file"} is not a picture that this browser can read. Choose a PNG, JPEG or WebP picture.`);
  });
  const pixels = bitmap.width * bitmap.height;
  if (SENT_AS_THEY_ARE.has(file.type) && file.size <= limits.max_picture_bytes && pixels <= limits.max_picture_pixels) {
    return { blob: file, bitmap, name };
  }
  const most = Math.min(limits.max_picture_pixels, 16_000_000);
  const scale = Math.min(1, Math.sqrt(most / pixels));
  const smaller = await createImageBitmap(bitmap, {
    resizeWidth: Math.max(1, Math.floor(scale * bitmap.width)),
    resizeHeight: Math.max(1, Math.floor(scale * bitmap.height)),
    resizeQuality: "high",
  });
  return { blob: await encoded(smaller), bitmap: smaller, name };
}

/**
 * @param {ImageBitmap | HTMLVideoElement} picture
 * @returns {Promise<Blob>} JPEG
 */
export async function encoded(picture) {
  const video = picture instanceof HTMLVideoElement;
  const canvas = document.createElement("canvas");
  canvas.width = video ? picture.videoWidth : picture.width;
  canvas.height = video ? picture.videoHeight : picture.height;
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(picture, 0, 0);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new PictureError("The picture cannot be encoded."))), "image/jpeg", 0.95);
  });
}

/**
 * The picture of an answer.
 * @param {import("./gateway.js").EncodedPicture} picture
 */
export function blobOf({ data, format }) {
  return new Blob([Uint8Array.from(atob(data), (character) => character.charCodeAt(0))], { type: `image/${format}` });
}

/**
 * @param {Blob} blob
 * @returns {Promise<string>}
 */
export function base64Of(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^.*,/, ""));
    reader.onerror = () => reject(new PictureError("The picture can no longer be read. Choose it again."));
    reader.readAsDataURL(blob);
  });
}

/**
 * The first file that a drop or the clipboard holds.
 * @param {DataTransfer | null} data
 */
export function fileOf(data) {
  return data?.files[0] ?? null;
}

/**
 * Offers a file to be saved.
 * @param {Blob} blob
 * @param {string} name
 */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
