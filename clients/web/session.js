// @ts-check
// The edit session: a websocket on which the newest request wins. It comes back by itself with what was asked last, and
// sends the code itself where the gateway does not know its handle (any more).

import { GatewayError, address } from "./gateway.js";
import { encodedEdits } from "./edits.js";

/**
 * @typedef {import("./source.js").Source} Source
 * @typedef {import("./edits.js").Edits} Edits
 * @typedef {{sequence: number, source: Source, edits: Edits, whole: boolean, askedAt: number}} Wanted  `whole`: the whole
 *   photograph, not the face alone
 * @typedef {{face: Blob, picture: Blob, domainScore: number, wanted: Wanted, serverMs: number}} Shown
 */

export class EditSession {
  /**
   * @param {import("./gateway.js").Gateway} gateway
   * @param {import("./connection.js").Connection} connection
   * @param {{onPicture: (shown: Shown) => void, onError: (error: GatewayError) => void}} handlers
   */
  constructor(gateway, connection, handlers) {
    this.gateway = gateway;
    this.connection = connection;
    this.handlers = handlers;
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {Wanted | null} */
    this.wanted = null;
    /** @type {Map<number, Wanted>} what the gateway has been asked for and has not answered */
    this.asked = new Map();
    this.sequence = 0;
    this.answered = 0;
    /** @type {Wanted | null} whose source the gateway's session has */
    this.sent = null;
    this.ended = false;
  }

  /**
   * Asks for a picture; those asked for before it and not answered yet no longer matter.
   * @param {Source} source
   * @param {Edits} edits
   * @param {boolean} whole
   * @param {number} askedAt  when the visitor asked, ms of performance.now()
   */
  request(source, edits, whole, askedAt) {
    this.sequence += 1;
    this.wanted = { sequence: this.sequence, source, edits, whole, askedAt };
    if (this.socket?.readyState === WebSocket.OPEN) this.#send();
    else if (this.connection.up) this.#connect();
  }

  /** Asks again for what is wanted, after the gateway was gone. */
  resume() {
    if (this.wanted) this.#connect();
  }

  /** Nothing is wanted any more; what is still under way is not shown. */
  rest() {
    this.wanted = null;
    this.answered = this.sequence;
  }

  #connect() {
    if (this.socket && this.socket.readyState <= WebSocket.OPEN) return;
    const protocols = ["indomain.v1"];
    if (this.gateway.key) protocols.push(`bearer.${this.gateway.key}`);
    const socket = new WebSocket(address("v1/edit-session").replace(/^http/, "ws"), protocols);
    socket.binaryType = "blob";
    this.socket = socket;
    this.sent = null;
    this.ended = false;
    this.asked.clear();
    /** @type {any} */
    let answer = null;
    /** @type {Blob[]} */
    let pictures = [];
    let awaited = 0;
    socket.onopen = () => this.#send();
    socket.onmessage = ({ data }) => {
      if (data instanceof Blob) {
        pictures.push(data);
        if (pictures.length === awaited) this.#show(answer, pictures);
        return;
      }
      answer = JSON.parse(data);
      pictures = [];
      awaited = [answer.edited?.image, answer.edited?.pasted].filter(Boolean).length;
      this.connection.proved();
      if (answer.error) this.#failed(answer.sequence, new GatewayError(answer.error));
      else if (answer.reason) this.ended = !answer.retryable; // of the session: it has been idle for too long
    };
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = null;
      if (this.ended) return; // opened again by the next request
      this.connection.lost();
    };
  }

  /** @param {boolean} [byHandle] */
  #send(byHandle = true) {
    const { wanted, socket } = this;
    if (!wanted || !socket) return;
    /** @type {Record<string, any>} */
    const edit = encodedEdits(wanted.edits);
    if (this.sent?.source !== wanted.source || this.sent.whole !== wanted.whole) {
      Object.assign(edit, wanted.whole ? photographOf(wanted.source) : codeOf(wanted.source, byHandle));
      this.sent = wanted;
    }
    this.asked.set(wanted.sequence, wanted);
    socket.send(JSON.stringify({ sequence: wanted.sequence, edit }));
  }

  /**
   * @param {any} answer
   * @param {Blob[]} pictures  the face, and then the photograph where it was asked for
   */
  #show(answer, pictures) {
    const wanted = this.asked.get(answer.sequence);
    for (const sequence of this.asked.keys()) if (sequence <= answer.sequence) this.asked.delete(sequence);
    if (!wanted || answer.sequence <= this.answered) return;
    this.answered = answer.sequence;
    const { image, pasted, domain_score: domainScore, timings } = answer.edited;
    const [face, picture = face] = [image, pasted].filter(Boolean).map(({ format }, index) => new Blob([pictures[index]], { type: `image/${format}` }));
    const serverMs = timings.reduce((/** @type {number} */ sum, /** @type {any} */ each) => sum + 1000 * each.seconds, 0);
    this.handlers.onPicture({ face, picture, domainScore, wanted, serverMs });
  }

  /**
   * @param {number} sequence
   * @param {GatewayError} error
   */
  #failed(sequence, error) {
    this.asked.delete(sequence);
    if (error.reason === "unknown_code_handle") {
      if (this.wanted) this.wanted.source.handle = "";
      this.sent = null;
      this.#send(false);
    } else if (sequence > this.answered) {
      this.handlers.onError(error);
    }
  }
}

/**
 * What a session needs to edit a code.
 * @param {Source} source
 * @param {boolean} byHandle
 */
function codeOf({ code, handle, bundle }, byHandle) {
  return {
    code: handle && byHandle ? { handle } : { data: code.data, shape: code.shape },
    bundle: bundle.name,
    output: { ...pictureFormat(bundle), omit_codes: true },
  };
}

/**
 * What a session needs to edit a face in its photograph: the photograph, which stays there.
 * @param {Source} source
 */
function photographOf({ photograph, bundle, align }) {
  return {
    picture: { data: photograph?.base64 },
    bundle: bundle.name,
    align,
    output: { format: "jpeg", quality: 90, omit_codes: true, include_pasted: true },
  };
}

/**
 * How pictures come while a slider is dragged: without loss where they are small, since they are shown large.
 * @param {import("./gateway.js").Bundle} bundle
 */
export function pictureFormat(bundle) {
  return bundle.resolution <= 256 ? { format: "png" } : { format: "jpeg", quality: 92 };
}
