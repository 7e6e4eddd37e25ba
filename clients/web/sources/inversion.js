// @ts-check
// Inverts a photograph: finds its face, sends it to the gateway, shows progress, and begins again after a lost connection.

import { GatewayError } from "../gateway/gateway.js";
import { pictureFormat } from "../state/pictures.js";
import { sourceFrom } from "../state/source.js";
import { byId } from "../ui/elements.js";
import { speak } from "../ui/notices.js";
import { hideProgress, showProgress } from "../ui/progress.js";
import { chosenFace } from "./faces.js";

/** Seconds between two reports, at least. */
const INTERVAL_S = 0.05;

/** Reasons that pass by themselves once the gateway is back. */
const PASSING = new Set(["gone", "not_ready", "shutting_down", "backend_unavailable"]);

/** @typedef {(preview: import("../state/messages.js").EncodedPicture) => void} OnPreview */

export class Inversion {
  /**
   * @param {import("../gateway/gateway.js").Gateway} gateway
   * @param {import("../gateway/connection.js").Connection} connection
   */
  constructor(gateway, connection) {
    this.gateway = gateway;
    this.connection = connection;
    this.work = new AbortController();
    byId("progress-cancel").addEventListener("click", () => this.work.abort());
  }

  /**
   * Throws GatewayError, or an AbortError where it was cancelled or another inversion has begun.
   * @param {import("../state/pictures.js").Photograph} photograph
   * @param {import("../state/messages.js").Bundle} bundle
   * @param {import("../state/messages.js").Align | undefined} align  undefined: the bundle's way
   * @param {OnPreview} onPreview
   * @returns {Promise<import("../state/source.js").Source>}
   */
  async run(photograph, bundle, align, onPreview) {
    this.work.abort();
    const work = new AbortController();
    this.work = work;
    try {
      if (bundle.alignment === "face" && !align) {
        showProgress("Looking for faces", null);
        const { faces } = await this.#untilDone(() => this.gateway.send("find-faces", { picture: photograph.blob }, { bundle: bundle.name }, work.signal));
        align = { face: await chosenFace(faces, photograph.bitmap) };
        work.signal.throwIfAborted();
      }
      showProgress("Sending the picture", null);
      const output = { ...pictureFormat(bundle), include_aligned: true, include_identity_score: bundle.identity_score };
      const options = { bundle: bundle.name, align, interval_s: INTERVAL_S, output };
      const result = await this.#untilDone(() => this.gateway.watchInvert(photograph.blob, options, (progress) => report(progress, onPreview), work.signal));
      speak("The picture is ready to edit.");
      return sourceFrom(result, bundle, photograph.name, { photograph, align });
    } finally {
      if (this.work === work) hideProgress();
    }
  }

  /**
   * Repeats an attempt, each time when the gateway is back, until it succeeds or fails for another reason.
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
        showProgress("Waiting for the gateway", null);
        await Promise.race([this.connection.whenUp(), new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }))]);
        signal.throwIfAborted();
      }
    }
  }
}

/**
 * @param {import("../state/messages.js").Progress} progress
 * @param {OnPreview} onPreview
 */
function report({ step, steps, preview }, onPreview) {
  showProgress(step === 0 ? "A first guess" : `Refining, ${step} of ${steps}`, step / steps);
  if (preview) onPreview(preview);
}
