// @ts-check
// Edits: how far each direction is moved, which meanings are kept, in which area, and what is painted. Their JSON and
// their words.

/**
 * @typedef {{left: number, top: number, right: number, bottom: number}} Region  in parts of the picture's sides
 * @typedef {{strengths: Record<string, number>, keep: readonly string[], region: Region | null, mask: string | null, strokes: string | null}} Edits
 *   `strengths`: by direction, 0 where one is missing; `keep`: directions whose meaning stays; `region`, `mask`: the area,
 *   a rectangle or a drawn one, both null is everywhere; `strokes`: colours to follow; drawings are PNGs in base64
 */

/** @type {Edits} */
export const NO_EDITS = Object.freeze({ strengths: {}, keep: [], region: null, mask: null, strokes: null });

/**
 * @typedef {{data: string}} Drawing
 * @typedef {{edits: import("./messages.js").EditStep[], region?: Region, mask?: Drawing, strokes?: Drawing}} EncodedEdits
 */

/**
 * Edits in the gateway's JSON. An area without a change is left out.
 * @param {Edits} edits
 * @returns {EncodedEdits}
 */
export function encodedEdits(edits) {
  const { strengths, keep, region, mask, strokes } = edits;
  const steps = Object.entries(strengths).filter(([, strength]) => strength !== 0).map(([direction, strength]) => {
    const others = keep.filter((name) => name !== direction);
    return { direction, strength, ...(others.length && { keep: others }) };
  });
  const area = mask ? { mask: { data: mask } } : region && { region };
  return { edits: steps, ...(!isNone(edits) && area), ...(strokes && { strokes: { data: strokes } }) };
}

/**
 * The inverse of encodedEdits.
 * @param {EncodedEdits} encoded
 * @returns {Edits}
 */
export function decodedEdits({ edits, region, mask, strokes }) {
  return {
    strengths: Object.fromEntries(edits.map(({ direction, strength }) => [direction, strength])),
    keep: [...new Set(edits.flatMap(({ keep }) => keep ?? []))],
    region: region ?? null,
    mask: mask?.data ?? null,
    strokes: strokes?.data ?? null,
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
export function isNone({ strengths, strokes }) {
  return !strokes && Object.values(strengths).every((strength) => strength === 0);
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
export function described({ strengths, strokes }, bundle) {
  const parts = bundle.directions.filter(({ name }) => strengths[name]).map(({ name, label }) => `${label} ${written(strengths[name])}`);
  if (strokes) parts.push("Painted");
  return parts.join(", ") || "Unedited";
}

/**
 * @param {Edits} a
 * @param {Edits} b
 */
export function same(a, b) {
  return JSON.stringify(encodedEdits(a)) === JSON.stringify(encodedEdits(b)) && a.keep.join() === b.keep.join() && a.region === b.region && a.mask === b.mask;
}
