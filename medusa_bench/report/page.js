"use strict";
// Puts the page together once all its parts are there.

drawDecoding();
if (byId("roofline")) drawRoofline();
drawSlowest();
drawTree();
byId("csv")?.addEventListener("click", () => download("points.csv", csvText()));
byId("rows-csv")?.addEventListener("click", () => download("comparisons.csv", rowsCsvText()));
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
  for (const folded of document.querySelectorAll("details")) folded.open = true;
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

// Said once the frame that shows the charts is over.
Promise.all(drawn).then(() => {
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      document.documentElement.dataset.drawn = "true";
    }),
  );
});
