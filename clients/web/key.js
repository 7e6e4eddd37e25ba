// @ts-check
// Asks for the API key of a gateway that wants one.

import { ask, byId } from "./elements.js";

/**
 * @param {string} reason  why the last one was not taken; empty: none was given yet
 * @returns {Promise<string | null>}
 */
export function askKey(reason) {
  byId("key-button").hidden = false;
  byId("key-reason").textContent = reason ? "It did not take the last one. Check that the key is whole, or ask whoever runs the gateway." : "Whoever runs it has given you one.";
  const input = /** @type {HTMLInputElement} */ (byId("key-input"));
  input.value = "";
  return ask(/** @type {HTMLDialogElement} */ (byId("key-dialog")), (close) => {
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      close(input.value.trim() || null);
    };
    byId("key-cancel").onclick = () => close(null);
  });
}
