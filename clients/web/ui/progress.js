// @ts-check
// The progress over the picture: what is under way, and how far.

import { byId } from "./elements.js";
import { speak } from "./notices.js";

/**
 * @param {string} text
 * @param {number | null} share  done, 0..1; null: not known
 */
export function showProgress(text, share) {
  byId("progress").hidden = false;
  const bar = /** @type {HTMLProgressElement} */ (byId("progress-bar"));
  if (byId("progress-text").textContent !== text && (share === null || share === 0)) speak(text);
  byId("progress-text").textContent = text;
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
}

export function hideProgress() {
  byId("progress").hidden = true;
}
