// @ts-check
// What is being edited: the history, and the edits in force now, settled or not.

import { NO_EDITS, same } from "./edits.js";
import { History } from "./history.js";

/** @typedef {import("./history.js").State} State */

/** Events: "state" (another state is current), "settled" (the history has a new step, the picture does not change). */
export class Editing extends EventTarget {
  constructor() {
    super();
    this.history = new History();
    /** Edits in force: those of the current state, or what a slider has moved since. */
    this.edits = NO_EDITS;
  }

  /** The current state of the history. @returns {State | undefined} */
  get current() {
    return this.history.current;
  }

  get source() {
    return this.current?.source;
  }

  /** Makes a new state the current one. @param {State} state */
  enter(state) {
    this.history.push(state);
    this.restore();
  }

  /**
   * Goes to a state of the history.
   * @param {number} position
   * @returns {State | undefined}
   */
  goTo(position) {
    const state = this.history.goTo(position);
    if (state) this.restore();
    return state;
  }

  /** Puts the current state's edits in force again. */
  restore() {
    if (this.current) this.edits = this.current.edits;
    this.dispatchEvent(new Event("state"));
  }

  /** Adds the edits in force to the history, unless they are there already. @param {string} label */
  settle(label) {
    const { current } = this;
    if (!current || same(current.edits, this.edits)) return;
    this.history.push({ source: current.source, edits: this.edits, label });
    this.dispatchEvent(new Event("settled"));
  }
}
