// @ts-check
// A picture from the camera. The camera is on only while its dialog is open.

import { PictureError, encodedJpeg } from "../state/pictures.js";
import { ask, byId } from "../ui/elements.js";

/**
 * @returns {Promise<Blob | null>}  JPEG; null: cancelled. Throws PictureError where no camera can be used.
 */
export async function takePicture() {
  const stream = await opened();
  const video = /** @type {HTMLVideoElement} */ (byId("camera-video"));
  video.srcObject = stream;
  try {
    await video.play();
    return await ask(/** @type {HTMLDialogElement} */ (byId("camera-dialog")), (close) => {
      byId("camera-take").onclick = async () => close(await encodedJpeg(video));
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
