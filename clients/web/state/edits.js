// @ts-check
// Edits: how far each direction is moved, which meanings are kept, and in which region. Their JSON and their words.

/**
 * @typedef {{left: number, top: number, right: number, bottom: number}} Region  in parts of the picture's sides
 * @typedef {{strengths: Record<string, number>, keep: readonly string[], region: Region | null}} Edits
 *   `strengths`: by direction, 0 where one is missing; `keep`: directions whose meaning stays; `region`: null is everywhere
 */

/** @type {Edits} */
export const NO_EDITS = Object.freeze({ strengths: {}, keep: [], region: null });

/**
 * Edits in the gateway's JSON.
 * @param {Edits} edits
 * @returns {{edits: import("./messages.js").EditStep[], region?: Region}}
 */
export function encodedEdits({ strengths, keep, region }) {
  const steps = Object.entries(strengths).filter(([, strength]) => strength !== 0).map(([direction, strength]) => {
    const others = keep.filter((name) => name !== direction);
    return { direction, strength, ...(others.length && { keep: others }) };
  });
  return { edits: steps, ...(region && steps.length && { region }) };
}

/**
 * The inverse of encodedEdits.
 * @param {{edits: import("./messages.js").EditStep[], region?: Region}} encoded
 * @returns {Edits}
 */
export function decodedEdits({ edits, region }) {
  return {
    strengths: Object.fromEntries(edits.map(({ direction, strength }) => [direction, strength])),
    keep: [...new Set(edits.flatMap(({ keep }) => keep ?? []))],
    region: region ?? null,
  };
}

/**
 * Edits with a preset's strengths and kept directions added.
 * @param {Edits} edits
 * @param {import("./messages.js").Preset} preset
 * @returns {Edits}
 */
export function withPreset(edits, preset) {
  const strengths = Object.fromEntries(preset.edits.map(({ direction, strength }) => [direction, strength]));
  const keep = new Set([...edits.keep, ...preset.edits.flatMap((edit) => edit.keep ?? [])]);
  return { ...edits, strengths: { ...edits.strengths, ...strengths }, keep: [...keep] };
}

/** @param {Edits} edits */
export function isNone({ strengths }) {
  return Object.values(strengths).every((strength) => strength === 0);
}

/** A strength in text: +1.25, −0.50, 0. @param {number} strength */
export function written(strength) {
  if (strength === 0) return "0";
  return `${strength > 0 ? "+" : "−"}${Math.abs(strength).toFixed(2)}`;
}

/**
 * All edits in one line: "Smile +1.20, Age −0.50".
 * @param {Edits} edits
 * @param {import("./messages.js").Bundle} bundle
 */
export function described({ strengths }, bundle) {
  const parts = bundle.directions.filter(({ name }) => strengths[name]).map(({ name, label }) => `${label} ${written(strengths[name])}`);
  return parts.join(", ") || "Unedited";
}

/**
 * @param {Edits} a
 * @param {Edits} b
 */
export function same(a, b) {
  return JSON.stringify(encodedEdits(a)) === JSON.stringify(encodedEdits(b)) && a.keep.join() === b.keep.join() && a.region === b.region;
}
