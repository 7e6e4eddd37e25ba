// @ts-check
// The switch for dark and light: as the system, light, dark. theme.js sets what was chosen before anything is drawn.

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
    } catch { /* storage may be forbidden: then for this page only */ }
    show();
  });
  show();
}

/** @returns {"" | "light" | "dark"} */
function chosen() {
  const { colours } = document.documentElement.dataset;
  return colours === "light" || colours === "dark" ? colours : "";
}
