// @ts-check
// A picture from the camera, which is on only while its dialog is open.

import { ask, byId } from "./elements.js";
import { PictureError, encoded } from "./pictures.js";

/**
 * @returns {Promise<Blob | null>}  JPEG; null: cancelled. Raises PictureError where there is no camera to be had.
 */
export async function takePicture() {
  const stream = await opened();
  const video = /** @type {HTMLVideoElement} */ (byId("camera-video"));
  video.srcObject = stream;
  try {
    await video.play();
    return await ask(/** @type {HTMLDialogElement} */ (byId("camera-dialog")), (close) => {
      byId("camera-take").onclick = async () => close(await encoded(video));
      byId("camera-cancel").onclick = () => close(null);
    });
  } finally {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
  }
}

async function opened() {
  if (!navigator.mediaDevices) {
    throw new PictureError("Browsers give the camera to pages over HTTPS or on this machine only. Choose a picture instead.");
  }
  return navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" }, audio: false }).catch((error) => {
    throw new PictureError(
      error.name === "NotAllowedError"
        ? "The browser was not allowed to use the camera. Allow it in the address bar, or choose a picture instead."
        : "No camera was found. Choose a picture instead.",
    );
  });
}
