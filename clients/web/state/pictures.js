// @ts-check
// Pictures: read from files, decoded from answers, saved to disk, and the format to ask the gateway for.

/** @typedef {{blob: Blob, bitmap: ImageBitmap, name: string, base64?: string}} Photograph  `base64`: see photographBase64 */

/** A file that is not a picture. `message` says so, and what to do. */
export class PictureError extends Error {}

const SENT_UNCHANGED = new Set(["image/png", "image/jpeg", "image/webp"]);
const MOST_PIXELS = 16_000_000;

/**
 * Reads a photograph and makes it fit for the gateway: another type, or one beyond the limits, becomes a JPEG.
 * Throws PictureError where the browser cannot read the file.
 * @param {Blob} file
 * @param {string} name
 * @param {import("./messages.js").Limits} limits
 * @returns {Promise<Photograph>}
 */
export async function readPhotograph(file, name, limits) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new PictureError(`${name ? `“${name}”` : "This file"} is not a picture that this browser can read. Choose a PNG, JPEG or WebP picture.`);
  });
  const pixels = bitmap.width * bitmap.height;
  if (SENT_UNCHANGED.has(file.type) && file.size <= limits.max_picture_bytes && pixels <= limits.max_picture_pixels) {
    return { blob: file, bitmap, name };
  }
  const most = Math.min(limits.max_picture_pixels, MOST_PIXELS);
  const scale = Math.min(1, Math.sqrt(most / pixels));
  const smaller = await createImageBitmap(bitmap, {
    resizeWidth: Math.max(1, Math.floor(scale * bitmap.width)),
    resizeHeight: Math.max(1, Math.floor(scale * bitmap.height)),
    resizeQuality: "high",
  });
  return { blob: await encodedJpeg(smaller), bitmap: smaller, name };
}

/**
 * @param {ImageBitmap | HTMLVideoElement} picture
 * @returns {Promise<Blob>} JPEG
 */
export async function encodedJpeg(picture) {
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
 * @param {import("./messages.js").EncodedPicture} picture
 */
export function blobOf({ data, format }) {
  return new Blob([Uint8Array.from(atob(data), (character) => character.charCodeAt(0))], { type: `image/${format}` });
}

/**
 * A photograph's bytes in base64, encoded at the first call and kept with the photograph.
 * @param {Photograph} photograph
 * @returns {Promise<string>}
 */
export async function photographBase64(photograph) {
  photograph.base64 ??= await base64Of(photograph.blob);
  return photograph.base64;
}

/**
 * The output options to ask for: lossless where pictures are small, because they are shown large.
 * @param {import("./messages.js").Bundle} bundle
 */
export function pictureFormat(bundle) {
  return bundle.resolution <= 256 ? { format: "png" } : { format: "jpeg", quality: 92 };
}

/**
 * Lets the browser save a file.
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

/**
 * @param {Blob} blob
 * @returns {Promise<string>}
 */
function base64Of(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).replace(/^.*,/, ""));
    reader.onerror = () => reject(new PictureError("The picture can no longer be read. Choose it again."));
    reader.readAsDataURL(blob);
  });
}
