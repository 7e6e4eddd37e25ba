// @ts-check
// What the visitor sees: the first page or the editor, the picture with its domain score, and the picture before.

import { described } from "../state/edits.js";
import { photographBase64 } from "../state/pictures.js";
import { byId } from "../ui/elements.js";
import { hideProgress, showProgress } from "../ui/progress.js";
import { domainSentence } from "./domain.js";
import { Stage } from "./stage.js";

/** @typedef {import("../state/source.js").Source} Source */

export class View {
  /**
   * @param {import("../state/editing.js").Editing} editing
   * @param {import("../gateway/models.js").Models} models
   * @param {{onWanted: () => void, onError: (error: any) => void}} handlers  `onWanted`: another picture is wanted
   */
  constructor(editing, models, handlers) {
    this.editing = editing;
    this.models = models;
    this.handlers = handlers;
    this.stage = new Stage();
    /** The face that is seen. @type {Blob | null} */
    this.face = null;
    /** Whether the whole photograph is shown, with the face in it. */
    this.whole = false;
    /** Counts pictures: one that is decoded after a later one is not shown. */
    this.pictures = 0;
    this.views = /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input[name=view]"));
    this.#followControls();
  }

  openStart() {
    byId("start").hidden = false;
    byId("work").hidden = true;
  }

  openEditor() {
    byId("start").hidden = true;
    byId("work").hidden = false;
  }

  /** Locks the editor while a picture is inverted. @param {boolean} held */
  hold(held) {
    for (const part of document.querySelectorAll(".tools, .panel, .strip, .segments, .brush-tools")) part.toggleAttribute("inert", held);
    if (held) byId("progress-cancel").focus();
  }

  /** Shows a photograph that is about to be inverted. @param {import("../state/pictures.js").Photograph} photograph */
  showPhotograph({ bitmap, name }) {
    this.#showBitmap(bitmap);
    byId("picture-name").textContent = name;
  }

  /** Shows what belongs to a source: its name, its picture before, and the choice between face and photograph. @param {Source} source */
  showSource(source) {
    byId("picture-name").textContent = source.name;
    this.#showAgainst(source);
    this.#showBefore(source);
    byId("view").hidden = !source.isPart;
    if (!source.isPart) this.whole = false;
  }

  /**
   * @param {Blob} picture
   * @param {number} [domainScore]  0..1; undefined or NaN: not known, and the last one stays
   * @param {Blob} [face]  where `picture` is the whole photograph
   * @param {string} [identity]  whether it is the same person, in words; empty: not known
   * @returns {Promise<boolean>}  false: a later picture came before this one could be shown
   */
  async showPicture(picture, domainScore, face = picture, identity = "") {
    this.pictures += 1;
    const number = this.pictures;
    const bitmap = await createImageBitmap(picture);
    if (number !== this.pictures) return false;
    this.face = face;
    this.stage.showAfter(bitmap);
    if (domainScore !== undefined && !Number.isNaN(domainScore)) {
      /** @type {HTMLMeterElement} */ (byId("domain-meter")).value = domainScore;
      byId("domain-text").textContent = domainSentence(domainScore);
    }
    byId("identity-text").textContent = identity;
    if (this.editing.current) byId("after").setAttribute("aria-label", `The edited picture. ${described(this.editing.edits, this.models.bundle)}`);
    return true;
  }

  /** Shows the whole photograph, or the face alone. @param {boolean} wanted */
  async showWhole(wanted) {
    const source = this.editing.source;
    const photograph = source?.photograph;
    if (wanted && photograph) await photographBase64(photograph);
    if (wanted && !this.whole && photograph) {
      // Until the gateway has found the face again and put it back.
      this.#showBitmap(photograph.bitmap);
      showProgress("Putting the face back", null);
    }
    this.whole = wanted;
    for (const radio of this.views) radio.checked = (radio.value === "photograph") === wanted;
    this.#showAgainst(source);
    if (source) await this.#showBefore(source);
  }

  /** Goes back to the face alone, where the photograph cannot be had or the visitor does not wait for it. */
  async showFace() {
    hideProgress();
    await this.showWhole(false);
    this.handlers.onWanted();
  }

  /** Shows the face alone and nothing beside it, to draw on. */
  makeRoom() {
    this.#compare(false);
    if (this.whole) this.showFace();
  }

  /** @param {boolean} comparing */
  #compare(comparing) {
    this.stage.compare(comparing);
    byId("compare").setAttribute("aria-pressed", String(comparing));
    this.#showAgainst(this.editing.source);
  }

  #followControls() {
    byId("progress-cancel").addEventListener("click", () => this.whole && this.showFace());
    byId("compare").addEventListener("click", () => this.#compare(!this.stage.comparing));
    for (const radio of document.querySelectorAll("input[name=against]")) {
      radio.addEventListener("change", () => this.editing.source && this.#showBefore(this.editing.source));
    }
    for (const radio of this.views) {
      radio.addEventListener("change", async () => {
        if (!this.editing.current) return;
        await this.showWhole(radio.value === "photograph").catch(this.handlers.onError);
        this.handlers.onWanted();
      });
    }
  }

  /** @param {ImageBitmap} bitmap */
  #showBitmap(bitmap) {
    this.pictures += 1;
    this.stage.showAfter(bitmap);
  }

  /** Offers what to compare with, where there is a choice. @param {Source | undefined} source */
  #showAgainst(source) {
    byId("against").hidden = this.whole || !this.stage.comparing || !source?.aligned;
  }

  /** @param {Source} source */
  async #showBefore(source) {
    const chosen = document.querySelector("input[name=against]:checked");
    const aligned = source.aligned && /** @type {HTMLInputElement} */ (chosen).value === "aligned" ? source.aligned : source.picture;
    this.stage.showBefore(this.whole && source.photograph ? source.photograph.bitmap : await createImageBitmap(aligned));
  }
}
