// @ts-check
// Whether the gateway answers. Once it does not, the page asks again, with growing pauses, until the gateway is ready.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

/** Events: "lost", "waiting" (the next try is at `nextTry`), "back". */
export class Connection extends EventTarget {
  /** @param {() => Promise<boolean>} ready  whether the gateway would serve a request now */
  constructor(ready) {
    super();
    this.ready = ready;
    this.up = true;
    /** The time of the next try, ms of performance.now(). */
    this.nextTry = 0;
    this.wait = FIRST_WAIT_MS;
    this.timer = 0;
    addEventListener("online", () => this.tryNow());
  }

  /** To call when a request did not reach the gateway. */
  lost() {
    if (!this.up) return;
    this.up = false;
    this.dispatchEvent(new Event("lost"));
    this.#putOff();
  }

  /** To call when the gateway has answered: the next loss begins with short pauses again. */
  proved() {
    this.wait = FIRST_WAIT_MS;
  }

  async tryNow() {
    if (this.up) return;
    clearTimeout(this.timer);
    if (!(await this.ready())) return this.#putOff();
    if (this.up) return;
    this.up = true;
    this.dispatchEvent(new Event("back"));
  }

  /** @returns {Promise<void>} */
  whenUp() {
    if (this.up) return Promise.resolve();
    return new Promise((resolve) => this.addEventListener("back", () => resolve(), { once: true }));
  }

  #putOff() {
    clearTimeout(this.timer);
    // A random share, so that the pages of one gateway do not all ask at once.
    const wait = this.wait * (0.8 + 0.4 * Math.random());
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT_MS);
    this.nextTry = performance.now() + wait;
    this.timer = setTimeout(() => this.tryNow(), wait);
    this.dispatchEvent(new Event("waiting"));
  }
}
