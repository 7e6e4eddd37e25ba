// @ts-check
// The tabs of the panel. Arrow keys go from one to the next, as assistive technology expects.

import { byId } from "./elements.js";

const NAMES = ["edit", "blend", "history"];

/** @type {(name: string) => void} */
let changed = () => {};

/** @param {(name: string) => void} onChange */
export function followTabs(onChange) {
  changed = onChange;
  for (const [index, name] of NAMES.entries()) {
    const tab = byId(`tab-${name}`);
    tab.addEventListener("click", () => selectTab(name));
    tab.addEventListener("keydown", (event) => {
      /** @type {Record<string, number>} */
      const targets = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: NAMES.length - 1 };
      const target = targets[event.key];
      if (target === undefined) return;
      event.preventDefault();
      const next = NAMES[(target + NAMES.length) % NAMES.length];
      selectTab(next);
      byId(`tab-${next}`).focus();
    });
  }
}

/** @param {string} name */
export function selectTab(name) {
  for (const each of NAMES) {
    const tab = byId(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    byId(`panel-${each}`).hidden = each !== name;
  }
  changed(name);
}
