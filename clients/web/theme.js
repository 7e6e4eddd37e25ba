// The colours that were chosen, before anything is drawn; without a choice the system's. The switch is colours.js.
try {
  const chosen = localStorage.getItem("indomain.colours");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.colours = chosen;
} catch { /* storage may be forbidden: the system's colours then */ }
