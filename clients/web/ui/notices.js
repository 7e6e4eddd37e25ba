// @ts-check
// Messages to the visitor: errors and what to do about them, whether the gateway answers, and text for screen readers.

import { byId, element, icon } from "./elements.js";

/** This page's sentences, by reason, where the gateway's message is for programs. @type {Record<string, string>} */
const SENTENCES = {
  gone: "The gateway does not answer. Your picture and your edits are kept here; try again in a moment.",
  no_face: "No face was found in this picture. Choose one in which a face is seen from the front, well lit and not too small.",
  face_not_usable: "The face in this picture cannot be edited: it is too small, turned away too far or covered. Choose another picture, or one taken closer.",
  no_such_face: "That face is no longer found in the picture. Choose it again.",
  invalid_picture: "This file is not a picture that can be read. Choose a PNG, JPEG or WebP picture.",
  picture_too_large: "This picture is too large for the gateway. Choose a smaller one.",
  request_too_large: "This picture is too large for the gateway. Choose a smaller one.",
  queue_full: "The gateway has too much to do just now. Try again in a moment.",
  key_limit: "This key has reached its limit of requests. Try again in a moment.",
  permission_denied: "This key may not do that. Use another key.",
  deadline_exceeded: "This took longer than the gateway allows. Try again in a moment.",
  not_ready: "The gateway is still starting. Try again in a moment.",
  shutting_down: "The gateway is going down. Your picture and your edits are kept here; try again in a moment.",
};

/** An error as a sentence. @param {any} error */
export function sentence(error) {
  const own = SENTENCES[error.reason];
  if (own) return own;
  if (error.reason || error.constructor.name === "PictureError") return error.message;
  return "Something went wrong in this page. Reload it and try again; a kept edit file opens where you were.";
}

/**
 * Shows an error until the visitor dismisses it or the next one comes.
 * @param {any} error
 * @param {Record<string, () => void>} [actions]  buttons: label -> what to do
 */
export function tellError(error, actions = {}) {
  console.debug(error);
  const notice = element("div", { class: "notice error", role: "alert" });
  const text = element("p", {}, sentence(error));
  if (error.requestId) text.append(" ", element("small", {}, `Request ${error.requestId}`));
  notice.append(text);
  for (const [label, act] of Object.entries(actions)) {
    const button = element("button", { class: "button", type: "button" }, label);
    button.addEventListener("click", () => (notice.remove(), act()));
    notice.append(button);
  }
  notice.append(element("button", { class: "icon-button small", type: "button", "aria-label": "Dismiss", onclick: () => notice.remove() }, icon("reset")));
  clearErrors();
  byId("notices").append(notice);
}

export function clearErrors() {
  for (const old of byId("notices").querySelectorAll(".error")) old.remove();
}

/** Lets a screen reader say a text. @param {string} text */
export function speak(text) {
  byId("spoken").textContent = text;
}

/**
 * Shows whether the gateway answers, and when the page tries again.
 * @param {import("../gateway/connection.js").Connection} connection
 */
export function followConnection(connection) {
  const text = byId("connection-text");
  const banner = element("div", { class: "notice waiting", role: "status", hidden: true });
  const sentence = element("p", {}, "The gateway does not answer. Your picture and your edits are kept; the page goes on as soon as it is back.");
  const when = element("span", { class: "when", "aria-hidden": "true" });
  sentence.append(" ", when);
  banner.append(sentence, element("button", { class: "button", type: "button", onclick: () => connection.tryNow() }, "Try now"));
  byId("notices").prepend(banner);
  const count = () => {
    const seconds = Math.ceil((connection.nextTry - performance.now()) / 1000);
    when.textContent = seconds > 0 ? `Next try in ${seconds} s.` : "Trying …";
  };
  let ticking = 0;
  connection.addEventListener("lost", () => {
    byId("connection").dataset.state = "gone";
    text.textContent = "Gateway gone";
    banner.hidden = false;
    ticking = setInterval(count, 250);
  });
  connection.addEventListener("waiting", count);
  connection.addEventListener("back", () => {
    clearInterval(ticking);
    banner.hidden = true;
    clearErrors();
    speak("The gateway is back.");
    showConnected();
  });
}

export function showConnected() {
  byId("connection").dataset.state = "up";
  byId("connection-text").textContent = "Connected";
}
