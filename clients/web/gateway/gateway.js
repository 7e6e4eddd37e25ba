// @ts-check
// The gateway over HTTP: a method for each kind of route, errors as GatewayError. The websocket is in session.js.

/**
 * @typedef {import("../state/messages.js").Bundles} Bundles
 * @typedef {import("../state/messages.js").Progress} Progress
 * @typedef {import("../state/messages.js").Result} Result
 */

const KEY = "indomain.key";
const TRIES = 4;

/** A refusal of the gateway, or reason "gone": it does not answer. `message` is a sentence for people. */
export class GatewayError extends Error {
  /** @param {{reason: string, message: string, retryable?: boolean, retry_after_s?: number, request_id?: string}} body */
  constructor(body) {
    super(body.message);
    this.reason = body.reason;
    this.retryable = body.retryable ?? false;
    this.retryAfterS = body.retry_after_s ?? 0;
    this.requestId = body.request_id ?? "";
  }
}

export class Gateway extends EventTarget {
  /**
   * @param {(reason: string) => Promise<string | null>} askKey  asks the visitor for an API key; null: none was given.
   *   `reason`: why the last key was refused; empty: there was none
   */
  constructor(askKey) {
    super();
    this.askKey = askKey;
    /** @type {Promise<string | null> | null} */
    this.asking = null;
    this.needsKey = false;
  }

  /** The API key, kept for this tab; empty: none. */
  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  set key(key) {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  }

  /** @returns {Promise<Bundles>} */
  async bundles() {
    return (await this.#ask("v1/bundles", { cache: "no-store" })).json();
  }

  /** Whether the gateway would serve a request now. */
  async ready() {
    try {
      return (await fetch(address("readyz"), { cache: "no-store" })).ok;
    } catch {
      return false;
    }
  }

  /**
   * Posts JSON and returns the answer's JSON.
   * @param {string} route  of /v1
   * @param {object} body
   * @param {AbortSignal} [signal]
   */
  async post(route, body, signal) {
    return (await this.#ask(`v1/${route}`, json(body, signal))).json();
  }

  /**
   * Posts JSON and returns the answer's picture as PNG.
   * @param {string} route
   * @param {object} body
   */
  async postForPicture(route, body) {
    const request = json(body);
    request.headers = { ...request.headers, accept: "image/png" };
    return (await this.#ask(`v1/${route}`, request)).blob();
  }

  /**
   * Posts pictures and options in a form, and returns the answer's JSON.
   * @param {string} route
   * @param {Record<string, Blob>} pictures  by the names of their parts
   * @param {object} options
   * @param {AbortSignal} [signal]
   */
  async send(route, pictures, options, signal) {
    return (await this.#ask(`v1/${route}`, { method: "POST", body: form(pictures, options), signal })).json();
  }

  /**
   * Inverts a picture, and calls `onProgress` for every report.
   * @param {Blob} picture
   * @param {object} options
   * @param {(progress: Progress) => void} onProgress
   * @param {AbortSignal} signal
   * @returns {Promise<Result>}
   */
  async watchInvert(picture, options, onProgress, signal) {
    const answer = await this.#ask("v1/watch-invert", { method: "POST", body: form({ picture }, options), signal });
    let result = null;
    for await (const [name, data] of events(answer)) {
      if (name === "result") result = data;
      else if (name === "progress") onProgress(data);
    }
    if (!result) throw gone();
    return result;
  }

  /**
   * The pictures between two codes, in order.
   * @param {object} body
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<Result & {index: number}>}
   */
  async *interpolate(body, signal) {
    for await (const [, data] of events(await this.#ask("v1/interpolate", json(body, signal)))) yield data;
  }

  /**
   * Sends a request until it succeeds. Asks the visitor for a key where the gateway wants one, and waits and tries again
   * where it is overloaded. Throws GatewayError.
   * @param {string} path
   * @param {RequestInit} request
   * @returns {Promise<Response>}
   */
  async #ask(path, request) {
    for (let tries = 1; ; tries += 1) {
      const key = this.key;
      const headers = new Headers(request.headers);
      if (key) headers.set("authorization", `Bearer ${key}`);
      const response = await fetch(address(path), { ...request, headers }).catch((error) => {
        throw request.signal?.aborted ? error : gone();
      });
      if (response.ok) return response;
      const error = await refusal(response);
      if (error.reason === "unauthenticated") {
        this.needsKey = true;
        if (this.key === key && !(await this.#askForKey(key ? error.message : ""))) throw error;
      } else if (response.status === 429 && tries < TRIES) {
        this.dispatchEvent(new CustomEvent("busy", { detail: error.retryAfterS }));
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(error.retryAfterS || 1, 10)));
        request.signal?.throwIfAborted();
      } else {
        throw error;
      }
    }
  }

  /** Opens one dialog for all requests that want a key. @param {string} reason */
  async #askForKey(reason) {
    this.asking ??= this.askKey(reason).finally(() => (this.asking = null));
    const key = await this.asking;
    if (key) this.key = key;
    return key;
  }
}

/** The URL of a route, also where a proxy serves the gateway below a path. @param {string} path */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/**
 * @param {object} body
 * @param {AbortSignal} [signal]
 * @returns {RequestInit}
 */
function json(body, signal) {
  return { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal };
}

/**
 * @param {Record<string, Blob>} pictures
 * @param {object} options
 */
function form(pictures, options) {
  const parts = new FormData();
  for (const [name, picture] of Object.entries(pictures)) parts.set(name, picture, name);
  parts.set("options", JSON.stringify(options));
  return parts;
}

/**
 * The server-sent events of a response: name and data. Throws GatewayError at an event `error`, and where the stream breaks.
 * @param {Response} response
 * @returns {AsyncGenerator<[string, any]>}
 */
async function* events(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : gone();
    });
    if (done) return;
    text += decoder.decode(value, { stream: true });
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const event = Object.fromEntries(text.slice(0, end).split("\n").map((line) => line.split(/: (.*)/s, 2)));
      text = text.slice(end + 2);
      const data = JSON.parse(event.data);
      if (event.event === "error") throw new GatewayError(data);
      yield [event.event, data];
    }
  }
}

/** @param {Response} response */
async function refusal(response) {
  try {
    return new GatewayError(await response.json());
  } catch {
    if (response.status >= 502) return gone();
    return new GatewayError({ reason: "unreadable", message: `The gateway answered with status ${response.status} and no reason.` });
  }
}

export function gone() {
  return new GatewayError({ reason: "gone", message: "The gateway does not answer.", retryable: true });
}
