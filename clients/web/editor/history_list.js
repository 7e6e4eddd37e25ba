// @ts-check
// The history on the page: the list, the buttons undo and redo, and their keys.

import { byId, element } from "../ui/elements.js";

export class HistoryList {
  /**
   * @param {import("../state/history.js").History} history
   * @param {(position: number) => void} onGoTo
   */
  constructor(history, onGoTo) {
    this.history = history;
    this.onGoTo = onGoTo;
    this.undo = /** @type {HTMLButtonElement} */ (byId("undo"));
    this.redo = /** @type {HTMLButtonElement} */ (byId("redo"));
    this.undo.addEventListener("click", () => onGoTo(history.position - 1));
    this.redo.addEventListener("click", () => onGoTo(history.position + 1));
    addEventListener("keydown", (event) => this.#followKey(event));
  }

  show() {
    const { states, position, canUndo, canRedo } = this.history;
    this.undo.disabled = !canUndo;
    this.redo.disabled = !canRedo;
    byId("history").replaceChildren(...states.map(({ label }, index) => this.#item(label, index, position)));
  }

  /**
   * @param {string} label
   * @param {number} index
   * @param {number} position  of the current state
   */
  #item(label, index, position) {
    const attributes = { type: "button", "aria-current": index === position ? "step" : false, class: index > position ? "undone" : "" };
    return element("li", {}, element("button", { ...attributes, onclick: () => this.onGoTo(index) }, label));
  }

  /** Ctrl+Z, Ctrl+Shift+Z and Ctrl+Y; Cmd on a Mac. @param {KeyboardEvent} event */
  #followKey(event) {
    if (!(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
    const key = event.key.toLowerCase();
    const redo = key === "y" || (key === "z" && event.shiftKey);
    if (!redo && key !== "z") return;
    event.preventDefault();
    const { history } = this;
    if (redo ? history.canRedo : history.canUndo) this.onGoTo(history.position + (redo ? 1 : -1));
  }
}
