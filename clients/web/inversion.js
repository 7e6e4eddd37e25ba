// @ts-check
// From a photograph to a source: sent to the gateway, with progress and previews; begun again where the gateway went.

import { byId } from "./elements.js";
import { chosenFace } from "./faces.js";
import { GatewayError } from "./gateway.js";
import { pictureFormat } from "./session.js";
import { speak } from "./notices.js";
import { sourceFrom } from "./source.js";

const INTERVAL_S = 0.05; // between two reports, at least

/** Reasons that pass by themselves once the gateway is back. */
const PASSING = new Set(["gone", "not_ready", "shutting_down", "backend_unavailable"]);

export class Inversion {
  /**
   * @param {import("./gateway.js").Gateway} gateway
   * @param {import("./connection.js").Connection} connection
   */
  constructor(gateway, connection) {
    this.gateway = gateway;
    this.connection = connection;
    this.work = new AbortController();
    byId("progress-cancel").addEventListener("click", () => this.work.abort());
  }

  /**
   * Raises GatewayError, or an AbortError where it was cancelled or another one began.
   * @param {import("./pictures.js").Photograph} photograph
   * @param {import("./gateway.js").Bundle} bundle
   * @param {import("./gateway.js").Align | undefined} align
   * @param {(preview: import("./gateway.js").EncodedPicture) => void} onPreview
   * @returns {Promise<import("./source.js").Source>}
   */
  async run(photograph, bundle, align, onPreview) {
    this.work.abort();
    const work = new AbortController();
    this.work = work;
    try {
      if (bundle.alignment === "face" && !align) {
        this.tell("Looking for faces", null);
        const { faces } = await this.#untilDone(() => this.gateway.send("find-faces", { picture: photograph.blob }, { bundle: bundle.name }, work.signal));
        align = { face: await chosenFace(faces, photograph.bitmap) };
        work.signal.throwIfAborted();
      }
      this.tell("Sending the picture", null);
      const options = { bundle: bundle.name, align, interval_s: INTERVAL_S, output: { ...pictureFormat(bundle), include_aligned: true } };
      const result = await this.#untilDone(() => this.gateway.watchInvert(photograph.blob, options, (progress) => this.#report(progress, onPreview), work.signal));
      speak("The picture is ready to edit.");
      return sourceFrom(result, bundle, photograph.name, { photograph, align });
    } finally {
      if (this.work === work) this.rest();
    }
  }

  /**
   * @template T
   * @param {() => Promise<T>} attempt
   * @returns {Promise<T>}
   */
  async #untilDone(attempt) {
    const { signal } = this.work;
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        if (!(error instanceof GatewayError) || !PASSING.has(error.reason)) throw error;
        this.connection.lost();
        this.tell("Waiting for the gateway", null);
        await Promise.race([this.connection.whenUp(), new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }))]);
        signal.throwIfAborted();
      }
    }
  }

  /**
   * @param {import("./gateway.js").Progress} progress
   * @param {(preview: import("./gateway.js").EncodedPicture) => void} onPreview
   */
  #report({ step, steps, preview }, onPreview) {
    this.tell(step === 0 ? "A first guess" : `Refining, ${step} of ${steps}`, step / steps);
    if (preview) onPreview(preview);
  }

  /** Nothing is under way. */
  rest() {
    byId("progress").hidden = true;
  }

  /**
   * What is under way.
   * @param {string} text
   * @param {number | null} share  done; null: not known
   */
  tell(text, share) {
    byId("progress").hidden = false;
    const bar = /** @type {HTMLProgressElement} */ (byId("progress-bar"));
    if (byId("progress-text").textContent !== text && (share === null || share === 0)) speak(text);
    byId("progress-text").textContent = text;
    if (share === null) bar.removeAttribute("value");
    else bar.value = share;
  }
}
