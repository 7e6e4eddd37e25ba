// @ts-check
// The ways in which files come into the page: the file dialog, the camera, paste and drop.

import { byId } from "../ui/elements.js";
import { takePicture } from "./camera.js";

/** @typedef {"edit" | "blend"} Purpose  what a chosen picture is for */

export class Intake {
  /** @param {{onFile: (file: File, purpose: Purpose) => void, onError: (error: any) => void}} handlers */
  constructor(handlers) {
    this.handlers = handlers;
    this.input = /** @type {HTMLInputElement} */ (byId("file"));
    /** @type {Purpose} */
    this.purpose = "edit";
    byId("choose").addEventListener("click", () => this.choose("edit"));
    byId("camera").addEventListener("click", () => this.#takePicture().catch(handlers.onError));
    this.input.addEventListener("change", () => {
      const [chosen] = this.input.files ?? [];
      if (chosen) handlers.onFile(chosen, this.purpose);
      this.input.value = "";
    });
    addEventListener("paste", (event) => this.#takeFirst(event.clipboardData));
    this.#followDrop();
  }

  /** Opens the file dialog. @param {Purpose} purpose */
  choose(purpose) {
    this.purpose = purpose;
    this.input.click();
  }

  async #takePicture() {
    const blob = await takePicture();
    if (blob) this.handlers.onFile(new File([blob], "Camera.jpg", { type: blob.type }), "edit");
  }

  #followDrop() {
    const veil = byId("drop-veil");
    addEventListener("dragenter", (event) => {
      if (event.dataTransfer?.types.includes("Files")) veil.hidden = false;
    });
    addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) veil.hidden = true;
    });
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      veil.hidden = true;
      this.#takeFirst(event.dataTransfer);
    });
  }

  /** Takes the first file of a drop or of the clipboard. @param {DataTransfer | null} data */
  #takeFirst(data) {
    const file = data?.files[0];
    if (file) this.handlers.onFile(file, "edit");
  }
}
