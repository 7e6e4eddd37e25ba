// @ts-check
// The dialog that asks for an API key.

import { ask, byId } from "./elements.js";

/**
 * @param {string} reason  why the last key was refused; empty: none was given yet
 * @returns {Promise<string | null>}  null: none was given
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
