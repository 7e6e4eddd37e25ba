// @ts-check
// The studio's main script: builds its parts and connects them. What a part does is in its own module.

import { Blend, pictureOf } from "./editor/blend.js";
import { Brush } from "./editor/brush.js";
import { Directions } from "./editor/directions.js";
import { identitySentence } from "./editor/domain.js";
import { Downloads } from "./editor/downloads.js";
import { HistoryList } from "./editor/history_list.js";
import { Strip } from "./editor/strip.js";
import { View } from "./editor/view.js";
import { Connection } from "./gateway/connection.js";
import { Gateway } from "./gateway/gateway.js";
import { Models } from "./gateway/models.js";
import { EditSession } from "./gateway/session.js";
import { Intake } from "./sources/intake.js";
import { Inversion } from "./sources/inversion.js";
import { Opening } from "./sources/opening.js";
import { Samples } from "./sources/samples.js";
import { Editing } from "./state/editing.js";
import { NO_EDITS, described, isNone, same, withPreset } from "./state/edits.js";
import { blobOf } from "./state/pictures.js";
import { followColours } from "./ui/colours.js";
import { byId } from "./ui/elements.js";
import { askKey } from "./ui/key.js";
import { clearErrors, followConnection, sentence, showConnected, speak, tellError } from "./ui/notices.js";
import { hideProgress } from "./ui/progress.js";
import { followTabs, selectTab } from "./ui/tabs.js";

/** How long a slider has rested before people compare, ms. */
const REST_MS = 250;
/** The timer of `compareSoon`. */
let comparison = 0;

/**
 * @typedef {import("./state/history.js").State} State
 * @typedef {import("./state/source.js").Source} Source
 */

// --- the gateway, and what is edited ------------------------------------------------------------------------------

const gateway = new Gateway(askKey);
const connection = new Connection(() => gateway.ready());
const editing = new Editing();
const session = new EditSession(gateway, connection, { onPicture: showEdited, onError: tellOfEdit });
const models = new Models({
  onUse: (bundle) => directions.build(bundle),
  onChosen() {
    const photograph = editing.source?.photograph;
    samples.clear();
    if (photograph) opening.invert(photograph, "edit");
    else openStart();
  },
});

// --- the editor ---------------------------------------------------------------------------------------------------

const view = new View(editing, models, { onWanted: requestPicture, onError: tell });
const historyList = new HistoryList(editing.history, goTo);
const directions = new Directions({
  onInput(name, strength, askedAt) {
    const { edits } = editing;
    editing.edits = { ...edits, strengths: { ...edits.strengths, [name]: strength } };
    requestPicture(askedAt);
  },
  onSettled(label) {
    editing.settle(label);
    if (models.bundle.identity_score) compareSoon();
  },
  onPreset: (preset) => applyEdits(withPreset(editing.edits, preset), preset.label),
  onKeep(name, label, keep) {
    const others = editing.edits.keep.filter((each) => each !== name);
    applyEdits({ ...editing.edits, keep: keep ? [...others, name] : others }, `${label} ${keep ? "kept" : "free"}`);
  },
  onArea(region, label) {
    brush.stop();
    applyEdits({ ...editing.edits, region, mask: null }, region ? `${label} only` : label);
  },
  onBrush: () => brush.start("area"),
  onReset: () => applyEdits({ ...editing.edits, strengths: {} }, "All reset"),
});
const brush = new Brush({
  onStart: () => view.makeRoom(),
  onArea: (mask, label) => applyEdits({ ...editing.edits, region: null, mask }, label),
  onStrokes: (strokes, label) => applyEdits({ ...editing.edits, strokes }, label),
});
const strip = new Strip({
  onReturn: ({ source, edits }) => enter({ source, edits, label: "Back to a kept one" }),
  onChange: () => blend.offer(strip.variants),
});
const blend = new Blend(gateway, {
  onPicture: (result) => view.showPicture(pictureOf(result), result.domain_score),
  onUse: begin,
  onError: tell,
  onBusy: showBusy,
  choosePicture: () => intake.choose("blend"),
  async generate() {
    const [source] = await samples.generate(1);
    if (source) blendWith(source);
  },
});
new Downloads(gateway, editing, tell);

// --- pictures come in ---------------------------------------------------------------------------------------------

const samples = new Samples(gateway, models, { onChosen: (source) => begin(source, source.name), onError: tell });
const inversion = new Inversion(gateway, connection);
const opening = new Opening(gateway, models, inversion, {
  onBegin(photograph) {
    session.rest();
    view.openEditor();
    view.hold(true);
    view.showPhotograph(photograph);
  },
  onPreview: (preview) => view.showPicture(blobOf(preview)),
  onOpened(state, purpose) {
    if (purpose === "edit") return enter(state);
    editing.restore();
    blendWith(state.source);
  },
  onFailed: () => editing.restore(),
  onEnd: () => view.hold(false),
  onError: tell,
});
const intake = new Intake({ onFile: (file, purpose) => opening.open(file, purpose), onError: tell });

// --- from state to picture ----------------------------------------------------------------------------------------

/** Goes on from a new state. @param {State} state */
function enter(state) {
  clearErrors();
  editing.enter(state);
}

/**
 * Goes on from an unedited source.
 * @param {Source} source
 * @param {string} label  of the step in the history
 */
function begin(source, label) {
  enter({ source, edits: NO_EDITS, label });
}

/** @param {number} position */
function goTo(position) {
  const state = editing.goTo(position);
  if (state) speak(`${state.label}. ${described(state.edits, state.source.bundle)}`);
}

/**
 * Puts edits in force that did not come from a slider.
 * @param {import("./state/edits.js").Edits} edits
 * @param {string} label  of the step in the history
 */
function applyEdits(edits, label) {
  editing.edits = edits;
  directions.show(edits);
  brush.show(edits);
  editing.settle(label);
  requestPicture();
  speak(`${label}.`);
}

/**
 * Asks for the identity score once the visitor rests. Every press of an arrow key settles a slider: a comparison at once
 * would keep the next picture waiting.
 */
function compareSoon() {
  clearTimeout(comparison);
  comparison = setTimeout(requestPicture, REST_MS);
}

/** Asks the gateway for the picture of the edits in force. @param {number} [askedAt]  ms of performance.now() */
function requestPicture(askedAt = performance.now()) {
  clearTimeout(comparison);
  const { source, edits, current } = editing;
  if (!source) return;
  // While a slider moves nobody reads it, and it would make pictures come later.
  const compared = source.bundle.identity_score === true && current !== undefined && same(current.edits, edits) && (view.whole || !isNone(edits));
  showBusy(true);
  session.request(source, edits, view.whole, askedAt, compared);
}

/** Says, to assistive technology too, whether a newer picture is awaited. @param {boolean} busy */
function showBusy(busy) {
  byId("frame").ariaBusy = String(busy);
}

/** Shows the current state, or the first page where there is none. */
function showState() {
  const { source, edits } = editing;
  if (!source) return openStart();
  if (source.bundle !== models.bundle) models.use(source.bundle);
  view.openEditor();
  directions.show(edits);
  brush.show(edits);
  view.showSource(source);
  historyList.show();
  if (isNone(edits) && !view.whole) view.showPicture(source.picture, source.domainScore, source.picture, identitySentence(source.identityScore, true));
  requestPicture();
  if (blend.isOpen) selectTab("edit");
}

function openStart() {
  view.openStart();
  brush.stop();
  session.rest();
  blend.close();
  if (models.bundle) samples.showSome();
}

/** Shows an answer of the session, unless it is of a source or a view that was left. @param {import("./gateway/session.js").Shown} answer */
async function showEdited({ face, picture, domainScore, identityScore, wanted, serverMs }) {
  if (wanted.source !== editing.source || wanted.whole !== view.whole || blend.isOpen) return;
  hideProgress();
  const ofPhotograph = wanted.whole || isNone(wanted.edits);
  const identity = identitySentence(identityScore ?? (ofPhotograph ? wanted.source.identityScore : undefined), ofPhotograph);
  if (!(await view.showPicture(picture, domainScore, face, identity))) return;
  brush.shown(wanted.edits);
  // For profiling: the time from the visitor's input to the painted frame, and the gateway's share of it.
  requestAnimationFrame(() => setTimeout(() => {
    performance.measure("indomain.edit", { start: wanted.askedAt, detail: { serverMs } });
    if (wanted.sequence === session.sequence && !blend.isOpen) showBusy(false);
  }));
}

/** Offers a source as the second picture, and blends with it. @param {Source} source */
function blendWith(source) {
  blend.bring({ source, edits: NO_EDITS, label: "", picture: source.picture });
}

editing.addEventListener("state", showState);
editing.addEventListener("settled", () => historyList.show());

// --- the gateway comes and goes, errors ---------------------------------------------------------------------------

/** Asks the gateway what it serves: at the start, after it was gone, and with a new key. */
async function meetGateway() {
  try {
    models.offer(await gateway.bundles());
  } catch (error) {
    if (/** @type {any} */ (error).reason === "gone") connection.lost();
    else tellError(error, { "Try again": meetGateway });
    return;
  }
  connection.proved();
  showConnected();
  byId("key-button").hidden = !gateway.needsKey;
  if (!models.isServed) tellError({ reason: "bundle", message: `The model “${models.bundle.name}” is no longer served here. Keep your edit file, and begin anew with another model.` });
  if (!editing.current) samples.showSome();
  session.resume();
}

/** Shows an error, unless the visitor cancelled. @param {any} error */
function tell(error) {
  if (error.name === "AbortError") return;
  if (error.reason === "gone") connection.lost();
  else tellError(error);
}

/** Shows why the session has no picture. @param {any} error */
function tellOfEdit(error) {
  showBusy(false);
  tell(error);
  if (view.whole) view.showFace();
}

connection.addEventListener("back", meetGateway);
gateway.addEventListener("busy", () => speak("The gateway is busy; waiting for a turn."));
addEventListener("unhandledrejection", (event) => speak(sentence(event.reason)));

// --- buttons and tabs that concern several parts ------------------------------------------------------------------

byId("new").addEventListener("click", () => {
  openStart();
  byId("choose").focus();
});
byId("keep").addEventListener("click", () => {
  const { current, edits } = editing;
  if (!current || !view.face) return;
  strip.keep({ source: current.source, edits, label: current.label, picture: view.face });
  speak(`Kept: ${described(edits, models.bundle)}`);
});
byId("key-button").addEventListener("click", async () => {
  const key = await askKey("");
  if (!key) return;
  gateway.key = key;
  meetGateway();
});
for (const id of ["compare", "view"]) byId(id).addEventListener("click", () => brush.stop());
followTabs((tab) => {
  if (tab !== "edit") brush.stop();
  byId("brush").hidden = tab !== "edit";
  if (tab === "blend" && editing.current) {
    view.showWhole(false);
    blend.open({ ...editing.current, edits: editing.edits, picture: view.face ?? editing.current.source.picture });
  } else if (blend.isOpen) {
    blend.close();
    requestPicture();
  }
});

byId("host").textContent = location.host;
followColours();
followConnection(connection);
meetGateway();
