// @ts-check
// The gateway over HTTP: its routes as functions, its errors as GatewayError. The websocket is session.js.

/**
 * @typedef {{data: string, shape: number[]}} Code  float32 [layers, size], little-endian, in base64
 * @typedef {{data: string, format: string, width: number, height: number}} EncodedPicture
 * @typedef {{direction: string, strength: number, keep?: string[]}} EditStep
 * @typedef {{name: string, label: string, range_min: number, range_max: number}} Direction
 * @typedef {{name: string, label: string, edits: EditStep[]}} Preset
 * @typedef {{name: string, resolution: number, layers: number, directions: Direction[], presets?: Preset[],
 *   alignment: string, licence: string, summary: string}} Bundle
 * @typedef {{max_picture_bytes: number, max_picture_pixels: number}} Limits
 * @typedef {{bundles: Bundle[], limits: Limits, server_version: string}} Bundles
 * @typedef {{code: Code & {handle?: string}, domain_score: number, bundle: string, image?: EncodedPicture,
 *   aligned?: EncodedPicture, placement?: Placement}} Result
 * @typedef {{width: number, height: number, corners: {x: number, y: number}[]}} Placement  of the code's square, in pixels
 *   of the upright photograph
 * @typedef {{alignment?: string, face?: number}} Align
 * @typedef {{step: number, steps: number, preview?: EncodedPicture, domain_score?: number}} Progress
 */

const KEY = "indomain.key";
const TRIES = 4;

/** What the gateway refused, or that it is not there (reason "gone"). `message` is a sentence for people. */
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
   * @param {(reason: string) => Promise<string | null>} askKey  asks the visitor for an API key; null: none was given
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

  /** Whether requests sent now would be served. */
  async ready() {
    try {
      return (await fetch(address("readyz"), { cache: "no-store" })).ok;
    } catch {
      return false;
    }
  }

  /**
   * A JSON route's answer as JSON.
   * @param {string} route  of /v1
   * @param {object} body
   * @param {AbortSignal} [signal]
   */
  async post(route, body, signal) {
    return (await this.#ask(`v1/${route}`, json(body, signal))).json();
  }

  /**
   * A route's answer as a PNG picture.
   * @param {string} route
   * @param {object} body
   */
  async postForPicture(route, body) {
    const request = json(body);
    request.headers = { ...request.headers, accept: "image/png" };
    return (await this.#ask(`v1/${route}`, request)).blob();
  }

  /**
   * A route that takes pictures in a form.
   * @param {string} route
   * @param {Record<string, Blob>} pictures  by the names of their parts
   * @param {object} options
   * @param {AbortSignal} [signal]
   */
  async send(route, pictures, options, signal) {
    return (await this.#ask(`v1/${route}`, { method: "POST", body: form(pictures, options), signal })).json();
  }

  /**
   * Inverts a picture; `onProgress` is told of every report.
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
   * The pictures from one code to another, in order.
   * @param {object} body
   * @param {AbortSignal} [signal]
   * @returns {AsyncGenerator<Result & {index: number}>}
   */
  async *interpolate(body, signal) {
    for await (const [, data] of events(await this.#ask("v1/interpolate", json(body, signal)))) yield data;
  }

  /**
   * A response that is a success. Asks for a key where one is wanted; tries again what the gateway says may be tried again.
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

  /** One dialog for all requests that want a key. @param {string} reason */
  async #askForKey(reason) {
    this.asking ??= this.askKey(reason).finally(() => (this.asking = null));
    const key = await this.asking;
    if (key) this.key = key;
    return key;
  }
}

/** The address of a route, also where the gateway lies below a path. @param {string} path */
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
 * The events of a stream of server-sent events. Raises GatewayError at an event `error`, and where the stream is cut.
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
