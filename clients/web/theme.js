// Applies the chosen colours before anything is drawn; without a choice the system's. The switch is in ui/colours.js.
try {
  const chosen = localStorage.getItem("indomain.colours");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.colours = chosen;
} catch { /* Storage may be forbidden. Then the system's colours. */ }
