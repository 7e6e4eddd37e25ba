// @ts-check
// Generated faces to begin with, and to blend with.

import { byId, element } from "./elements.js";
import { pictureFormat } from "./session.js";
import { picture } from "./strip.js";
import { sourceFrom } from "./source.js";

export const AT_ONCE = 8;
const TRUNCATION = 0.7;

/**
 * @param {import("./gateway.js").Gateway} gateway
 * @param {import("./gateway.js").Bundle} bundle
 * @param {number[]} seeds
 * @returns {Promise<import("./source.js").Source[]>}
 */
export async function sampled(gateway, bundle, seeds) {
  const body = { bundle: bundle.name, seeds, truncation: TRUNCATION, output: pictureFormat(bundle) };
  const { codes, images } = await gateway.post("sample", body);
  return seeds.map((seed, index) =>
    sourceFrom({ bundle: bundle.name, code: codes[index], image: images[index], domain_score: NaN }, bundle, `Generated face ${seed}`),
  );
}

/**
 * Shows generated faces on the first page.
 * @param {import("./source.js").Source[]} sources
 * @param {(source: import("./source.js").Source) => void} onChosen
 */
export function showSamples(sources, onChosen) {
  byId("samples").replaceChildren(
    ...sources.map((source) =>
      element("li", {}, element("button", { type: "button", class: "sample", "aria-label": `Edit ${source.name}`, onclick: () => onChosen(source) }, picture(source.picture))),
    ),
  );
}
