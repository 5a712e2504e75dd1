// Sets the chosen theme before the first paint; without a choice the browser's own preference holds.
(() => {
  try {
    const chosen = localStorage.getItem("antiphon-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage may be forbidden; the page then follows the browser.
  }
})();
