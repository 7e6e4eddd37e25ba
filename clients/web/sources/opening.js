// @ts-check
// Opens a file that has come in: an edit file as it was saved, a photograph by inverting it.

import { NO_EDITS } from "../state/edits.js";
import { openEditFile } from "../state/edit_file.js";
import { readPhotograph } from "../state/pictures.js";
import { clearErrors, tellError } from "../ui/notices.js";

/**
 * @typedef {import("./intake.js").Purpose} Purpose
 * @typedef {import("../state/history.js").State} State
 * @typedef {import("../state/pictures.js").Photograph} Photograph
 */

/** Errors of a photograph whose centre can be edited all the same. */
const WITHOUT_FACE = new Set(["no_face", "face_not_usable"]);

export class Opening {
  /**
   * @param {import("../gateway/gateway.js").Gateway} gateway
   * @param {import("../gateway/models.js").Models} models
   * @param {import("./inversion.js").Inversion} inversion
   * @param {{
   *   onBegin: (photograph: Photograph) => void,
   *   onPreview: (preview: import("../state/messages.js").EncodedPicture) => void,
   *   onOpened: (state: State, purpose: Purpose) => void,
   *   onFailed: () => void,
   *   onEnd: () => void,
   *   onError: (error: any) => void,
   * }} handlers  of an inversion: `onBegin`, previews, `onOpened` or `onFailed`, `onEnd`. Where another inversion has
   *   begun meanwhile, nothing more is heard of the first.
   */
  constructor(gateway, models, inversion, handlers) {
    this.gateway = gateway;
    this.models = models;
    this.inversion = inversion;
    this.handlers = handlers;
    this.inversions = 0;
  }

  /**
   * @param {File} file
   * @param {Purpose} purpose
   */
  async open(file, purpose) {
    clearErrors();
    // A visitor may be faster than the gateway's first answer, which says what the file can be opened with.
    await this.models.known;
    const { served } = this.models;
    try {
      if (file.type === "application/json" || file.name.endsWith(".json")) {
        const opened = await openEditFile(file, this.gateway, served.bundles);
        this.handlers.onOpened({ ...opened, label: "Edit opened" }, "edit");
      } else {
        await this.invert(await readPhotograph(file, withoutEnding(file.name), served.limits), purpose);
      }
    } catch (error) {
      this.handlers.onError(error);
    }
  }

  /**
   * @param {Photograph} photograph
   * @param {Purpose} purpose
   * @param {import("../state/messages.js").Align} [align]
   */
  async invert(photograph, purpose, align) {
    this.inversions += 1;
    const number = this.inversions;
    this.handlers.onBegin(photograph);
    try {
      const source = await this.inversion.run(photograph, this.models.bundle, align, this.handlers.onPreview);
      this.handlers.onOpened({ source, edits: NO_EDITS, label: photograph.name }, purpose);
    } catch (error) {
      if (number !== this.inversions) return;
      this.handlers.onFailed();
      this.#tell(error, photograph, purpose);
    } finally {
      if (number === this.inversions) this.handlers.onEnd();
    }
  }

  /**
   * @param {any} error
   * @param {Photograph} photograph
   * @param {Purpose} purpose
   */
  #tell(error, photograph, purpose) {
    if (!WITHOUT_FACE.has(error.reason)) return this.handlers.onError(error);
    tellError(error, { "Use its middle": () => this.invert(photograph, purpose, { alignment: "centre-crop" }) });
  }
}

/** @param {string} name  of a file */
function withoutEnding(name) {
  return name.replace(/\.[^.]+$/, "");
}
