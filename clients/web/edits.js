// @ts-check
// Edits: how far each direction is moved, in what words that is told, and how the gateway is told.

/** @typedef {Record<string, number>} Edits  strength by direction; what is not there is 0 */

/**
 * @param {Edits} edits
 * @returns {import("./gateway.js").EditStep[]}
 */
export function encodedSteps(edits) {
  return Object.entries(edits).filter(([, strength]) => strength !== 0).map(([direction, strength]) => ({ direction, strength }));
}

/** A strength as it is written: +1.25, −0.50, 0. @param {number} strength */
export function written(strength) {
  if (strength === 0) return "0";
  return `${strength > 0 ? "+" : "−"}${Math.abs(strength).toFixed(2)}`;
}

/**
 * All edits in a line: "Smile +1.20, Age −0.50".
 * @param {Edits} edits
 * @param {import("./gateway.js").Bundle} bundle
 */
export function described(edits, bundle) {
  const parts = bundle.directions.filter(({ name }) => edits[name]).map(({ name, label }) => `${label} ${written(edits[name])}`);
  return parts.join(", ") || "Unedited";
}

/**
 * @param {Edits} a
 * @param {Edits} b
 */
export function same(a, b) {
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].every((name) => (a[name] ?? 0) === (b[name] ?? 0));
}
