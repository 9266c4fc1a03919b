"use strict";
// What every chart of the page shares: the data, numbers for people, the theme, a figure.

const data = JSON.parse(document.getElementById("data").textContent);
const figures = [];

const isNarrow = window.matchMedia("(max-width: 40rem)").matches;
const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// -- numbers ------------------------------------------------------------------------------------

function significant(value, digits = 3) {
  if (!value) return "0";
  const rounded = Number(value.toPrecision(digits));
  return rounded.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(rounded)))));
}

function scaled(value, unit, steps) {
  if (value === null || value === undefined) return "unknown";
  const [factor, prefix] = steps.find(([f]) => Number(value.toPrecision(3)) >= f) ?? steps.at(-1);
  return `${significant(value / factor)} ${prefix}${unit}`;
}

const si = (value, unit) =>
  scaled(value, unit, [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]]);

const duration = (seconds) =>
  scaled(seconds, "s", [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]]);

const percent = (share) => (share === null ? "unknown" : `${significant(100 * share, 2)} %`);

function range(values) {
  // Math.min(...values) fails on a hundred thousand of them.
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

// -- CSV ----------------------------------------------------------------------------------------

function csvOf(columns, rows) {
  const quoted = (cell) => {
    let text = cell === null || cell === undefined ? "" : String(cell);
    // A spreadsheet would run text that begins so as a formula; numbers are left alone.
    if (typeof cell === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => `${row.map(quoted).join(",")}\r\n`).join("");
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: url, download: `medusa-bench-${name}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// -- theme --------------------------------------------------------------------------------------

const LIGHT = {
  paper: "#ffffff", ink: "#1a1a1a", soft: "#5a5a5a", line: "#e2e2e2", path: "#000000",
  families: { qkv: "#004488", mlp: "#BB5566", attention: "#DDAA33", output: "#222222", heads: "#997700" },
};
const DARK = {
  paper: "#15181c", ink: "#e8e8e8", soft: "#a9adb3", line: "#333940", path: "#ffffff",
  families: { qkv: "#6699CC", mlp: "#EE99AA", attention: "#EECC66", output: "#BBBBBB", heads: "#CC9933" },
};
const onTheme = []; // called with the colours whenever they change
let colours = LIGHT;

function setTheme(dark) {
  colours = dark ? DARK : LIGHT;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").textContent = dark ? "Light" : "Dark";
  for (const figure of figures) paint(figure);
  for (const repaint of onTheme) repaint();
}

const isAxis = (model) => model.type.endsWith("Axis");

function paint(figure) {
  figure.background_fill_color = colours.paper;
  figure.border_fill_color = colours.paper;
  figure.border_line_color = colours.paper; // else a hairline of the other theme stays at the edge
  figure.border_line_width = 3;
  figure.outline_line_color = colours.line;
  for (const axis of [...figure.below, ...figure.left].filter(isAxis)) {
    for (const name of ["major_label_text_color", "axis_label_text_color"]) axis[name] = colours.ink;
    for (const name of ["axis_line_color", "major_tick_line_color", "minor_tick_line_color"])
      axis[name] = colours.soft;
  }
  for (const grid of figure.center) if (grid.type === "Grid") grid.grid_line_color = colours.line;
}

// -- a figure -----------------------------------------------------------------------------------

function decades() {
  const labels = new Map();
  for (let power = -9; power <= 21; power += 1) {
    const value = Number(`1e${power}`);
    const [factor, prefix] = [
      [1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""],
    ].find(([f]) => value >= f) ?? [1, ""];
    labels.set(value, `${Number((value / factor).toPrecision(3))}${prefix}`);
  }
  return labels;
}

function chart(id, options) {
  const figure = Bokeh.Plotting.figure({
    sizing_mode: "stretch_width",
    height: 420,
    toolbar_location: "above",
    tools: "pan,box_zoom,wheel_zoom,save,reset",
    ...options,
  });
  figure.toolbar.logo = null;
  if (isNarrow) figure.toolbar.active_drag = null; // scrolls
  for (const axis of [...figure.below, ...figure.left].filter(isAxis)) {
    axis.axis_label_text_font_style = "normal";
    axis.axis_label_text_font_size = axis.major_label_text_font_size = isNarrow ? "11px" : "13px";
    if (axis.type === "LogAxis") axis.major_label_overrides = decades();
  }
  figures.push(figure);
  paint(figure);
  return figure;
}

/** A legend below the axes, where it covers nothing. entries: words and renderers. */
function addLegend(figure, entries) {
  const items = entries.map(
    ([words, renderers]) => new Bokeh.LegendItem({ label: { value: words }, renderers }),
  );
  const legend = new Bokeh.Legend({
    items, orientation: "horizontal", border_line_color: null, background_fill_color: null,
    label_text_color: colours.ink, label_text_font_size: "13px", ncols: isNarrow ? 1 : "auto", location: "bottom_left",
  });
  figure.add_layout(legend, "below");
  onTheme.push(() => { legend.label_text_color = colours.ink; });
}

const drawn = []; // promises of what is being drawn

function show(figure, id) {
  drawn.push(Bokeh.Plotting.show(figure, `#${id}`));
}
