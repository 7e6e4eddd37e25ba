// @ts-check
// The studio: what the visitor does -> the state -> what is seen. Each part has a module of its own.

import { Blend, pictureOf } from "./blend.js";
import { takePicture } from "./camera.js";
import { followColours } from "./colours.js";
import { Connection } from "./connection.js";
import { Directions } from "./directions.js";
import { domainSentence } from "./domain.js";
import { editFile, openEditFile } from "./edit_file.js";
import { NO_EDITS, described, encodedEdits, isNone, same } from "./edits.js";
import { ask, byId, element } from "./elements.js";
import { Gateway } from "./gateway.js";
import { History } from "./history.js";
import { Inversion } from "./inversion.js";
import { askKey } from "./key.js";
import { clearErrors, followConnection, sentence, showConnected, speak, tellError } from "./notices.js";
import { base64Of, blobOf, fileOf, readPhotograph, save } from "./pictures.js";
import { AT_ONCE, sampled, showSamples } from "./samples.js";
import { EditSession } from "./session.js";
import { Stage } from "./stage.js";
import { Strip } from "./strip.js";
import { followTabs, selectTab } from "./tabs.js";

/**
 * @typedef {import("./source.js").Source} Source
 * @typedef {import("./history.js").State} State
 */

const gateway = new Gateway(askKey);
const connection = new Connection(() => gateway.ready());
const history = new History();
const stage = new Stage();
const inversion = new Inversion(gateway, connection);
const session = new EditSession(gateway, connection, { onPicture: showEdited, onError: toldOfEdit });

/** @type {import("./gateway.js").Bundles} */
let served = { bundles: [], limits: { max_picture_bytes: Infinity, max_picture_pixels: Infinity }, server_version: "" };
/** @type {import("./gateway.js").Bundle} */
let bundle;
/** Edits in force, settled or not. @type {import("./edits.js").Edits} */
let edits = NO_EDITS;
/** The face that is seen. @type {Blob | null} */
let shown = null;
let nextSeed = 1;
let inversions = 0;
/** Whether the whole photograph is shown, with the face in its place. */
let whole = false;
/** What a chosen file is for. @type {"edit" | "blend"} */
let purpose = "edit";

const directions = new Directions({
  onInput(name, strength, askedAt) {
    edits = { ...edits, strengths: { ...edits.strengths, [name]: strength } };
    requestPicture(askedAt);
  },
  onSettled: settle,
  onPreset(preset) {
    const strengths = Object.fromEntries(preset.edits.map(({ direction, strength }) => [direction, strength]));
    const keep = new Set([...edits.keep, ...preset.edits.flatMap((edit) => edit.keep ?? [])]);
    edits = { ...edits, strengths: { ...edits.strengths, ...strengths }, keep: [...keep] };
    applyEdits(preset.label);
  },
  onKeep(name, label, keep) {
    const others = edits.keep.filter((each) => each !== name);
    edits = { ...edits, keep: keep ? [...others, name] : others };
    applyEdits(`${label} ${keep ? "kept" : "free"}`);
  },
  onArea(region, label) {
    edits = { ...edits, region };
    applyEdits(region ? `${label} only` : label);
  },
});
const strip = new Strip({
  onReturn: (variant) => enter({ source: variant.source, edits: variant.edits, label: "Back to a kept one" }),
  onChange: () => blend.offer(strip.variants),
});
const blend = new Blend(gateway, {
  onPicture: (result) => showPicture(pictureOf(result), result.domain_score),
  onUse: (source, label) => enter({ source, edits: NO_EDITS, label }),
  onError: told,
  choosePicture: () => chooseFile("blend"),
  async generate() {
    const [source] = await sampled(gateway, bundle, [nextSeed++]).catch((error) => (told(error), []));
    if (source) blend.bring({ source, edits: NO_EDITS, label: "", picture: source.picture });
  },
});

// --- the gateway --------------------------------------------------------------------------------------------------

async function meetGateway() {
  try {
    served = await gateway.bundles();
  } catch (error) {
    if (/** @type {any} */ (error).reason === "gone") connection.lost();
    else tellError(error, { "Try again": meetGateway });
    return;
  }
  connection.proved();
  showConnected();
  byId("key-button").hidden = !gateway.needsKey;
  const select = /** @type {HTMLSelectElement} */ (byId("bundle"));
  select.replaceChildren(...served.bundles.map(({ name, resolution }) => element("option", { value: name }, `${name}, ${resolution} px`)));
  byId("bundle-field").hidden = served.bundles.length < 2;
  const again = served.bundles.find(({ name }) => name === bundle?.name);
  if (!bundle) useBundle(served.bundles[0]);
  else if (!again) tellError({ reason: "bundle", message: `The model “${bundle.name}” is no longer served here. Keep your edit file, and begin anew with another model.` });
  if (!history.current && byId("samples").childElementCount === 0) generateSamples();
  session.resume();
}

/** @param {import("./gateway.js").Bundle} chosen */
function useBundle(chosen) {
  bundle = chosen;
  /** @type {HTMLSelectElement} */ (byId("bundle")).value = chosen.name;
  directions.lay(chosen);
  byId("about").textContent = [`${chosen.name}, ${chosen.resolution} × ${chosen.resolution} pixels.`, chosen.summary].join(" ");
}

async function generateSamples() {
  const seeds = Array.from({ length: AT_ONCE }, () => nextSeed++);
  try {
    showSamples(await sampled(gateway, bundle, seeds), (source) => enter({ source, edits: NO_EDITS, label: source.name }));
  } catch (error) {
    told(error);
  }
}

/** An error, with what can be done about it. @param {any} error */
function told(error) {
  if (error.name === "AbortError") return;
  if (error.reason === "gone") connection.lost();
  else tellError(error);
}

/** A picture that was asked for on the session did not come. @param {any} error */
function toldOfEdit(error) {
  told(error);
  if (whole) showFace();
}

connection.addEventListener("back", meetGateway);
gateway.addEventListener("busy", () => speak("The gateway is busy; waiting for a turn."));

// --- pictures come in ---------------------------------------------------------------------------------------------

/** @param {"edit" | "blend"} what */
function chooseFile(what) {
  purpose = what;
  byId("file").click();
}

/**
 * @param {File | Blob} file
 * @param {"edit" | "blend"} what
 */
async function take(file, what = "edit") {
  clearErrors();
  try {
    const name = file instanceof File ? file.name : "Photograph";
    if (file.type === "application/json" || name.endsWith(".json")) {
      const opened = await openEditFile(/** @type {File} */ (file), gateway, served.bundles);
      enter({ ...opened, label: "Edit opened" });
    } else {
      await invert(await readPhotograph(file, withoutEnding(name), served.limits), what);
    }
  } catch (error) {
    told(error);
  }
}

/**
 * @param {import("./pictures.js").Photograph} photograph
 * @param {"edit" | "blend"} what
 * @param {import("./gateway.js").Align} [align]
 */
async function invert(photograph, what, align) {
  inversions += 1;
  const number = inversions;
  session.rest();
  openEditor();
  hold(true);
  showBitmap(photograph.bitmap);
  byId("picture-name").textContent = photograph.name;
  try {
    const source = await inversion.run(photograph, bundle, align, (preview) => showPicture(blobOf(preview)));
    if (what === "blend") {
      showState();
      blend.bring({ source, edits: NO_EDITS, label: "", picture: source.picture });
    } else {
      enter({ source, edits: NO_EDITS, label: photograph.name });
    }
  } catch (error) {
    if (number !== inversions) return; // another picture has come
    if (history.current) showState();
    else openStart();
    toldOfPhotograph(error, photograph, what);
  } finally {
    if (number === inversions) hold(false);
  }
}

/**
 * @param {any} error
 * @param {import("./pictures.js").Photograph} photograph
 * @param {"edit" | "blend"} what
 */
function toldOfPhotograph(error, photograph, what) {
  if (error.reason !== "no_face" && error.reason !== "face_not_usable") return told(error);
  tellError(error, { "Use its middle": () => invert(photograph, what, { alignment: "centre-crop" }) });
}

/** While a picture is inverted there is nothing to edit. @param {boolean} held */
function hold(held) {
  for (const part of document.querySelectorAll(".tools, .panel, .strip, .segments")) part.toggleAttribute("inert", held);
  if (held) byId("progress-cancel").focus();
}

/** @param {string} name */
function withoutEnding(name) {
  return name.replace(/\.[^.]+$/, "");
}

// --- the state ----------------------------------------------------------------------------------------------------

/** A state to go on from. @param {State} state */
function enter(state) {
  clearErrors();
  history.push(state);
  showState();
}

/** What the visitor has done to the sliders becomes a step of the history. @param {string} label */
function settle(label) {
  const { current } = history;
  if (!current || same(current.edits, edits)) return;
  history.push({ source: current.source, edits, label });
  showHistory();
}

/** Edits that were set otherwise than by a slider. @param {string} label */
function applyEdits(label) {
  directions.show(edits);
  settle(label);
  requestPicture(performance.now());
  speak(`${label}.`);
}

/** @param {number} position */
function goTo(position) {
  const state = history.goTo(position);
  if (!state) return;
  showState();
  speak(`${state.label}. ${described(state.edits, state.source.bundle)}`);
}

/** @param {number} askedAt */
function requestPicture(askedAt) {
  if (history.current) session.request(history.current.source, edits, whole, askedAt);
}

// --- what is seen -------------------------------------------------------------------------------------------------

function openStart() {
  byId("start").hidden = false;
  byId("work").hidden = true;
  session.rest();
  blend.close();
  if (bundle && byId("samples").childElementCount === 0) generateSamples();
}

function openEditor() {
  byId("start").hidden = true;
  byId("work").hidden = false;
}

/** Everything of the current state. */
function showState() {
  const state = history.current;
  if (!state) return openStart();
  const { source } = state;
  if (source.bundle !== bundle) useBundle(source.bundle);
  edits = state.edits;
  openEditor();
  directions.show(edits);
  byId("picture-name").textContent = source.name;
  byId("against").hidden = whole || !stage.comparing || !source.aligned;
  showBefore(source);
  showHistory();
  byId("view").hidden = !source.isPart;
  if (!source.isPart) whole = false;
  if (isNone(edits) && !whole) showPicture(source.picture, source.domainScore);
  requestPicture(performance.now());
  if (blend.isOpen) selectTab("edit");
}

/** @param {import("./session.js").Shown} answer */
async function showEdited({ face, picture, domainScore, wanted, serverMs }) {
  if (wanted.source !== history.current?.source || wanted.whole !== whole || blend.isOpen) return;
  inversion.rest();
  if (!(await showPicture(picture, domainScore))) return;
  shown = face;
  // For whoever profiles the page: from the visitor's input until the frame with its picture is painted, and what the
  // gateway's stages took of it.
  requestAnimationFrame(() => setTimeout(() => performance.measure("indomain.edit", { start: wanted.askedAt, detail: { serverMs } })));
}

let pictures = 0;

/**
 * @param {Blob} picture
 * @param {number} [domainScore]
 * @returns {Promise<boolean>}  false: another one came before it could be shown
 */
async function showPicture(picture, domainScore) {
  pictures += 1;
  const number = pictures;
  const bitmap = await createImageBitmap(picture);
  if (number !== pictures) return false;
  shown = picture;
  stage.showAfter(bitmap);
  if (domainScore !== undefined && !Number.isNaN(domainScore)) {
    /** @type {HTMLMeterElement} */ (byId("domain-meter")).value = domainScore;
    byId("domain-text").textContent = domainSentence(domainScore);
  }
  if (history.current) byId("after").setAttribute("aria-label", `The edited picture. ${described(edits, bundle)}`);
  return true;
}

/** @param {ImageBitmap} bitmap */
function showBitmap(bitmap) {
  pictures += 1;
  stage.showAfter(bitmap);
}

/** @param {Source} source */
async function showBefore(source) {
  const chosen = document.querySelector("input[name=against]:checked");
  const aligned = source.aligned && /** @type {HTMLInputElement} */ (chosen).value === "aligned" ? source.aligned : source.picture;
  stage.showBefore(whole && source.photograph ? source.photograph.bitmap : await createImageBitmap(aligned));
}

/** The whole photograph, or the face alone. @param {boolean} wanted */
async function showWhole(wanted) {
  const source = history.current?.source;
  if (wanted && source?.photograph) source.photograph.base64 ??= await base64Of(source.photograph.blob);
  if (wanted && !whole && source?.photograph) {
    showBitmap(source.photograph.bitmap); // until the gateway has found the face again, and put it back
    inversion.tell("Putting the face back", null);
  }
  whole = wanted;
  for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("input[name=view]"))) {
    radio.checked = (radio.value === "photograph") === wanted;
  }
  byId("against").hidden = whole || !stage.comparing || !source?.aligned;
  if (source) await showBefore(source);
}

/** The face alone again, where the whole photograph cannot be had or is not waited for. */
async function showFace() {
  inversion.rest();
  await showWhole(false);
  requestPicture(performance.now());
}

/** The photograph with the edited face in its place, as large as it came. @param {Source} source */
async function savePhotograph({ photograph, bundle, align, name }) {
  if (!photograph) return;
  photograph.base64 ??= await base64Of(photograph.blob);
  const output = { include_pasted: true };
  const body = { bundle: bundle.name, picture: { data: photograph.base64 }, align, ...encodedEdits(edits), output };
  save(await gateway.postForPicture("edit", body), `${name}, edited.png`);
}

function showHistory() {
  /** @type {HTMLButtonElement} */ (byId("undo")).disabled = !history.canUndo;
  /** @type {HTMLButtonElement} */ (byId("redo")).disabled = !history.canRedo;
  byId("history").replaceChildren(
    ...history.states.map(({ label }, position) =>
      element("li", {}, element("button", { type: "button", "aria-current": position === history.position ? "step" : false, class: position > history.position ? "undone" : "", onclick: () => goTo(position) }, label)),
    ),
  );
}

// --- what the visitor does ----------------------------------------------------------------------------------------

byId("choose").addEventListener("click", () => chooseFile("edit"));
byId("camera").addEventListener("click", async () => {
  try {
    const blob = await takePicture();
    if (blob) await take(new File([blob], "Camera.jpg", { type: blob.type }));
  } catch (error) {
    told(error);
  }
});
byId("progress-cancel").addEventListener("click", () => whole && showFace());
byId("more-samples").addEventListener("click", generateSamples);
byId("new").addEventListener("click", () => {
  openStart();
  byId("choose").focus();
});
byId("undo").addEventListener("click", () => goTo(history.position - 1));
byId("redo").addEventListener("click", () => goTo(history.position + 1));
byId("reset-all").addEventListener("click", () => {
  edits = { ...edits, strengths: {} };
  applyEdits("All reset");
});
byId("keep").addEventListener("click", () => {
  const { current } = history;
  if (!current || !shown) return;
  strip.keep({ source: current.source, edits, label: current.label, picture: shown });
  speak(`Kept: ${described(edits, bundle)}`);
});
byId("compare").addEventListener("click", () => {
  stage.compare(!stage.comparing);
  byId("compare").setAttribute("aria-pressed", String(stage.comparing));
  byId("against").hidden = whole || !stage.comparing || !history.current?.source.aligned;
});
for (const radio of document.querySelectorAll("input[name=against]")) {
  radio.addEventListener("change", () => history.current && showBefore(history.current.source));
}
for (const radio of document.querySelectorAll("input[name=view]")) {
  radio.addEventListener("change", async () => {
    const { current } = history;
    if (!current) return;
    await showWhole(/** @type {HTMLInputElement} */ (radio).value === "photograph").catch(told);
    requestPicture(performance.now());
  });
}
byId("bundle").addEventListener("change", () => {
  const chosen = served.bundles.find(({ name }) => name === /** @type {HTMLSelectElement} */ (byId("bundle")).value);
  if (!chosen) return;
  const photograph = history.current?.source.photograph;
  useBundle(chosen);
  byId("samples").replaceChildren();
  if (photograph) invert(photograph, "edit");
  else openStart();
});
byId("download").addEventListener("click", () => {
  const { current } = history;
  if (!current) return;
  ask(/** @type {HTMLDialogElement} */ (byId("download-dialog")), (close) => {
    byId("download-close").onclick = () => close(null);
    byId("download-picture").onclick = async () => {
      const body = { bundle: bundle.name, code: current.source.code, ...encodedEdits(edits) };
      close(null);
      try {
        save(await gateway.postForPicture("edit", body), `${current.source.name}.png`);
      } catch (error) {
        told(error);
      }
    };
    byId("download-photograph").hidden = !current.source.isPart;
    byId("download-photograph").onclick = async () => {
      close(null);
      await savePhotograph(current.source).catch(told);
    };
    byId("download-edit").onclick = () => {
      save(editFile(current.source, edits), `${current.source.name}.edit.json`);
      close(null);
    };
  });
});
byId("key-button").addEventListener("click", async () => {
  const key = await askKey("");
  if (!key) return;
  gateway.key = key;
  meetGateway();
});

const file = /** @type {HTMLInputElement} */ (byId("file"));
file.addEventListener("change", () => {
  const [chosen] = file.files ?? [];
  if (chosen) take(chosen, purpose);
  file.value = "";
});

addEventListener("paste", (event) => {
  const pasted = fileOf(event.clipboardData);
  if (pasted) take(pasted);
});

const veil = byId("drop-veil");
addEventListener("dragenter", (event) => {
  if (event.dataTransfer?.types.includes("Files")) veil.hidden = false;
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) veil.hidden = true;
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  veil.hidden = true;
  const dropped = fileOf(event.dataTransfer);
  if (dropped) take(dropped);
});

addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
  const key = event.key.toLowerCase();
  const redo = key === "y" || (key === "z" && event.shiftKey);
  if (!redo && key !== "z") return;
  event.preventDefault();
  if (redo ? history.canRedo : history.canUndo) goTo(history.position + (redo ? 1 : -1));
});

addEventListener("unhandledrejection", (event) => speak(sentence(event.reason)));

byId("host").textContent = location.host;
followColours();
followConnection(connection);
followTabs((tab) => {
  if (tab === "blend" && history.current) {
    showWhole(false);
    blend.open({ ...history.current, edits, picture: shown ?? history.current.source.picture });
  } else if (blend.isOpen) {
    blend.close();
    requestPicture(performance.now());
  }
});
meetGateway();
