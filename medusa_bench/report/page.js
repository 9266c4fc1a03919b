"use strict";
// Puts the page together once all its parts are there.

addFilters();
drawDecoding();
drawRoofline();
drawSlowest();
drawTree();
byId("roofline-chart").addEventListener("keydown", onKey);
byId("csv").addEventListener("click", download);
byId("theme").addEventListener("click", () => setTheme(colours === LIGHT));
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
prefersDark.addEventListener("change", () => setTheme(prefersDark.matches));
setTheme(prefersDark.matches);
let wasDark = false;
window.addEventListener("beforeprint", () => {
  wasDark = colours === DARK;
  if (wasDark) setTheme(false);
});
window.addEventListener("afterprint", () => wasDark && setTheme(true));
Promise.all(drawn).then(() => {
  document.documentElement.dataset.drawn = "true";
});
