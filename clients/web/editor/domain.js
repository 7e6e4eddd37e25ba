// @ts-check
// The domain score in words: how native a picture is to the model.

/**
 * @param {number} score  percentile among the model's own pictures, 0..1
 */
export function domainSentence(score) {
  const percent = Math.round(100 * score);
  if (score >= 0.5) return `At home in what the model knows: more typical than ${percent} % of the pictures that it makes itself.`;
  if (score >= 0.1) return `Within what the model knows: more typical than ${percent} % of the pictures that it makes itself.`;
  if (score >= 0.02) return `At the edge of what the model knows (${percent} %): edits may bring other changes with them. Smaller ones hold better.`;
  return "Outside of what the model knows: edits may not mean what they say here. Smaller ones, or another picture, hold better.";
}
