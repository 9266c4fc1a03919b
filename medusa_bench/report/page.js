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

// Print on white, each chart as a picture that fits the paper. The button gives charts the time to
// change their colours, which the browser's own command does not wait for.
let wasDark = false;
byId("print").addEventListener("click", () => {
  const dark = colours === DARK;
  setTheme(false);
  setTimeout(() => {
    window.print();
    setTheme(dark);
  }, 500);
});
window.addEventListener("beforeprint", () => {
  wasDark = colours === DARK;
  if (wasDark) setTheme(false);
  for (const figure of figures) {
    const view = Bokeh.index.get_by_id(figure.id);
    view.paint(); // now, not in the next frame
    const picture = view.export("png").canvas;
    picture.className = "picture";
    view.el.parentElement.append(picture);
  }
});
window.addEventListener("afterprint", () => {
  for (const picture of document.querySelectorAll(".picture")) picture.remove();
  if (wasDark) setTheme(true);
});

Promise.all(drawn).then(() => {
  document.documentElement.dataset.drawn = "true";
});
