// @ts-check
// The history: every settled state, with undo, redo and a jump to any of them.

/**
 * @typedef {{source: import("./source.js").Source, edits: import("./edits.js").Edits, label: string}} State
 */

const MOST = 200;

export class History {
  constructor() {
    /** @type {State[]} */
    this.states = [];
    this.position = -1;
  }

  /** @returns {State | undefined} */
  get current() {
    return this.states[this.position];
  }

  get canUndo() {
    return this.position > 0;
  }

  get canRedo() {
    return this.position < this.states.length - 1;
  }

  /** Adds a state after the current one. Undone states are dropped. @param {State} state */
  push(state) {
    this.states.length = this.position + 1;
    this.states.push(Object.freeze(state));
    if (this.states.length > MOST) this.states.shift();
    this.position = this.states.length - 1;
  }

  /** @param {number} position */
  goTo(position) {
    this.position = Math.min(Math.max(position, 0), this.states.length - 1);
    return this.current;
  }
}
