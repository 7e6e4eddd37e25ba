// @ts-check
// The edit session: a websocket on which the newest request wins. After a broken connection it asks again for the last
// picture; where the gateway no longer knows a code's handle, it sends the code itself.

import { encodedEdits } from "../state/edits.js";
import { pictureFormat } from "../state/pictures.js";
import { GatewayError, address } from "./gateway.js";

/**
 * @typedef {import("../state/source.js").Source} Source
 * @typedef {import("../state/edits.js").Edits} Edits
 * @typedef {{sequence: number, source: Source, edits: Edits, whole: boolean, askedAt: number, compared: boolean}} Wanted
 *   a picture that was asked for; `whole`: the whole photograph, not the face alone; `askedAt`: ms of performance.now();
 *   `compared`: with its identity score
 * @typedef {{face: Blob, picture: Blob, domainScore: number, identityScore: number | undefined, wanted: Wanted, serverMs: number}} Shown  the answer to
 *   `wanted`; `picture`: the photograph with the face in it where that was asked for, the face otherwise
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
    /** @type {Map<number, Wanted>} requests that the gateway has not answered */
    this.asked = new Map();
    this.sequence = 0;
    this.answered = 0;
    /** @type {Wanted | null} the request whose source the gateway's session holds */
    this.sent = null;
    this.ended = false;
  }

  /**
   * Asks for a picture. Earlier requests without an answer no longer matter.
   * @param {Source} source
   * @param {Edits} edits
   * @param {boolean} whole
   * @param {number} askedAt  when the visitor asked, ms of performance.now()
   * @param {boolean} compared
   */
  request(source, edits, whole, askedAt, compared) {
    this.sequence += 1;
    this.wanted = { sequence: this.sequence, source, edits, whole, askedAt, compared };
    if (this.socket?.readyState === WebSocket.OPEN) this.#send();
    else if (this.connection.up) this.#connect();
  }

  /** Asks again for the last picture, after the gateway was gone. */
  resume() {
    if (this.wanted) this.#connect();
  }

  /** Forgets the last request; answers that are still on their way are not shown. */
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
      // An error without a sequence ends the session: it has been idle for too long.
      else if (answer.reason) this.ended = !answer.retryable;
    };
    socket.onclose = () => {
      if (this.socket !== socket) return;
      this.socket = null;
      // The next request opens it again.
      if (this.ended) return;
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
      edit.output = outputOf(wanted);
    } else if (this.sent.compared !== wanted.compared) {
      edit.output = outputOf(wanted);
    }
    this.sent = wanted;
    this.asked.set(wanted.sequence, wanted);
    socket.send(JSON.stringify({ sequence: wanted.sequence, edit }));
  }

  /**
   * @param {any} answer
   * @param {Blob[]} pictures  the face, then the photograph where it was asked for
   */
  #show(answer, pictures) {
    const wanted = this.asked.get(answer.sequence);
    for (const sequence of this.asked.keys()) if (sequence <= answer.sequence) this.asked.delete(sequence);
    if (!wanted || answer.sequence <= this.answered) return;
    this.answered = answer.sequence;
    const { image, pasted, domain_score: domainScore, identity_score: identityScore, timings } = answer.edited;
    const [face, picture = face] = [image, pasted].filter(Boolean).map(({ format }, index) => new Blob([pictures[index]], { type: `image/${format}` }));
    const serverMs = timings.reduce((/** @type {number} */ sum, /** @type {any} */ each) => sum + 1000 * each.seconds, 0);
    this.handlers.onPicture({ face, picture, domainScore, identityScore, wanted, serverMs });
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
 * The part of a message that makes a code the session's source.
 * @param {Source} source
 * @param {boolean} byHandle
 */
function codeOf({ code, handle, bundle }, byHandle) {
  return {
    code: handle && byHandle ? { handle } : { data: code.data, shape: code.shape },
    bundle: bundle.name,
  };
}

/**
 * The part of a message that makes a photograph the session's source. The session keeps the photograph.
 * @param {Source} source
 */
function photographOf({ photograph, bundle, align }) {
  return {
    picture: { data: photograph?.base64 },
    bundle: bundle.name,
    align,
  };
}

/**
 * The output options of a message. They stay in force until a message has others.
 * @param {Wanted} wanted
 */
function outputOf({ source, whole, compared }) {
  const pictures = whole ? { format: "jpeg", quality: 90, include_pasted: true } : pictureFormat(source.bundle);
  return { ...pictures, omit_codes: true, include_identity_score: compared };
}
