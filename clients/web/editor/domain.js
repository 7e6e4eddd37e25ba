// @ts-check
// The scores in words: how native a picture is to the model, and whether it still shows the same person.

/**
 * @param {number} score  percentile among the model's own pictures, 0..1
 */
export function domainSentence(score) {
  const percent = Math.round(100 * score);
  if (score >= 0.5) return `At home in what the model knows: more typical than ${percent} % of the pictures that it makes itself.`;
  if (score >= 0.1) return `Within what the model knows: more typical than ${percent} % of the pictures that it makes itself.`;
  if (score >= 0.02) return `At the edge of what the model knows (${percent} %): edits may bring other changes with them. Smaller ones hold better.`;
  return "More unusual than 98 % of the pictures that the model makes itself: edits may bring other changes with them. Smaller ones hold better.";
}

/**
 * @param {number | undefined} score  probability that two pictures show one person, 0..1; undefined: not known
 * @param {boolean} ofPhotograph  whether the picture is compared with the photograph, not with the unedited picture
 */
export function identitySentence(score, ofPhotograph) {
  if (score === undefined) return "";
  return `The same person as ${ofPhotograph ? "on the photograph" : "before the edits"}: ${Math.round(100 * score)} % likely.`;
}
