// @ts-check
// The colour switch: as the system, light, dark. theme.js applies the choice before anything is drawn.

import { byId } from "./elements.js";

const NAME = "indomain.colours";
const NEXT = { "": "light", light: "dark", dark: "" };
const LABELS = { "": "Colours: as the system", light: "Colours: light", dark: "Colours: dark" };

export function followColours() {
  const button = byId("theme-button");
  const show = () => {
    const label = LABELS[chosen()];
    button.setAttribute("aria-label", label);
    button.title = label;
  };
  button.addEventListener("click", () => {
    const next = NEXT[chosen()];
    if (next) document.documentElement.dataset.colours = next;
    else delete document.documentElement.dataset.colours;
    try {
      localStorage.setItem(NAME, next);
    } catch { /* Storage may be forbidden. Then the choice is for this page only. */ }
    show();
  });
  show();
}

/** @returns {"" | "light" | "dark"} */
function chosen() {
  const { colours } = document.documentElement.dataset;
  return colours === "light" || colours === "dark" ? colours : "";
}
