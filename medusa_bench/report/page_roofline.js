"use strict";
// The roofline: which points are shown, what hovering tells, and following one setting.

const SETTINGS = { batch_size: "batch", seq_len: "sequence", num_candidates: "candidates" };
const MARKERS = { prefill: "square", decode: "circle", medusa: "triangle" };
const GLYPHS = { prefill: "■", decode: "●", medusa: "▲" };
const HOLLOW = ["predicted", "simulated"];
const DOTTED = ["reported"];

const { points, tasks, names, folders } = data;
const numPoints = points.task.length;

/** A column of a logical point by name, as it is exported. */
function value(column, point) {
  switch (column) {
    case "device": case "provenance": case "title":
      return folders[points.folder[point]][column];
    case "model": case "operator": case "phase":
      return names[column][points[column][point]];
    case "batch_size": case "seq_len": case "num_candidates":
      return points[column][point];
    default:
      return tasks[column][points.task[point]];
  }
}

const FILTERS = [
  ["title", "GPU and provenance"], ["model", "Model"], ["operator", "Operator"], ["phase", "Phase"],
  ["batch_size", "Batch size"], ["seq_len", "Sequence length"], ["num_candidates", "Candidates"],
  ["dtype", "Dtype"], ["timing", "Timing"], ["flags", "Quality flags"],
];
const chosen = {};
const withNumber = [];
for (let point = 0; point < numPoints; point += 1)
  if (value("latency_s", point) !== null) withNumber.push(point);

function addFilters() {
  const form = document.querySelector("#roofline .filters");
  for (const [column, label] of FILTERS) {
    const found = [...new Set(withNumber.map((point) => value(column, point)))];
    found.sort(typeof found[0] === "number" ? (a, b) => a - b : undefined);
    const select = element("select", { name: column });
    select.append(new Option("all", ""));
    for (const each of found) select.append(new Option(each === "" ? "none" : each, `=${each}`));
    select.disabled = found.length < 2;
    select.addEventListener("change", () => {
      chosen[column] = select.value;
      refresh();
    });
    form.append(element("label", {}, label, select));
  }
  const follow = element("select", { name: "follow" });
  for (const [setting, label] of Object.entries(SETTINGS)) follow.append(new Option(label, setting));
  follow.addEventListener("change", () => {
    along = follow.value;
    if (current !== null) followFrom(current);
  });
  form.append(element("label", {}, "Follow along", follow));
  form.addEventListener("submit", (event) => event.preventDefault());
}

function isShown(point) {
  return FILTERS.every(([column]) => !chosen[column] || `=${value(column, point)}` === chosen[column]);
}

// -- the figure ---------------------------------------------------------------------------------

const dots = new Bokeh.ColumnDataSource({ data: {} });
const roofs = new Bokeh.ColumnDataSource({ data: { xs: [], ys: [], x: [], y: [], short: [], name: [], dash: [] } });
const path = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
let along = "batch_size";
let current = null; // the point that is followed
let roofline;

function settingOf(point) {
  const candidates = value("phase", point) === "medusa" ? `, ${value("num_candidates", point)} candidates` : "";
  return `${value("phase", point)}, batch ${value("batch_size", point)}, sequence ${value("seq_len", point)}${candidates}`;
}

function shareOf(point) {
  const measured = value("roof_fraction", point);
  if (measured !== null) return `${percent(measured)} of the measured roof`;
  const datasheet = value("datasheet_fraction", point);
  return datasheet === null ? "no roof is known" : `${percent(datasheet)} of the datasheet's roof`;
}

const boundOf = (point) => value("bound", point) || value("datasheet_bound", point) || "unknown";

function column(of, chosenPoints) {
  return chosenPoints.map(of);
}

function dotColumns(chosenPoints) {
  const look = (point) => {
    const marker = MARKERS[value("phase", point)];
    return DOTTED.includes(value("provenance", point)) ? `${marker}_dot` : marker;
  };
  const colour = (point) => colours.families[data.families[value("operator", point)]];
  const solid = (point) => {
    const provenance = value("provenance", point);
    return HOLLOW.includes(provenance) || DOTTED.includes(provenance) ? 0 : 0.75;
  };
  return {
    index: chosenPoints,
    x: column((p) => value("operational_intensity", p), chosenPoints),
    y: column((p) => value("flops_per_s", p), chosenPoints),
    marker: column(look, chosenPoints),
    colour: column(colour, chosenPoints),
    solid: column(solid, chosenPoints),
    what: column((p) => `${value("operator", p)} of ${value("model", p)}`, chosenPoints),
    setting: column(settingOf, chosenPoints),
    rate: column((p) => `${si(value("flops_per_s", p), "FLOP/s")}, ${duration(value("latency_s", p))}`, chosenPoints),
    share: column((p) => `${shareOf(p)}, bound by ${boundOf(p)}`, chosenPoints),
    spread: column((p) => (value("spread", p) ? `${significant(100 * value("spread", p), 2)} %` : "unknown"), chosenPoints),
    origin: column(
      (p) => `${value("title", p)}, ${value("dtype", p)}, ${value("timing", p)}${value("flags", p) ? `, flags: ${value("flags", p)}` : ""}`,
      chosenPoints,
    ),
  };
}

function roofColumns(chosenPoints) {
  const wanted = new Set(chosenPoints.map((p) => `${points.folder[p]} ${value("dtype", p)}`));
  const columns = { xs: [], ys: [], x: [], y: [], short: [], name: [], dash: [] };
  const [left, right] = range(dots.data.x ?? []);
  if (!(left < Infinity)) return columns;
  folders.forEach((folder, index) => {
    for (const roof of folder.roofs) {
      if (!wanted.has(`${index} ${roof.dtype}`)) continue;
      const { peak_flops_per_s: peak, memory_bandwidth_bytes_per_s: bandwidth } = roof;
      const ridge = peak / bandwidth;
      columns.xs.push([Math.min(left, ridge) / 2, ridge, Math.max(right, ridge) * 2]);
      columns.ys.push([(Math.min(left, ridge) / 2) * bandwidth, peak, peak]);
      columns.x.push(Math.max(right, ridge) * 2);
      columns.y.push(peak);
      columns.short.push(roof.kind === "measured" ? `measured, ${folder.device}` : roof.name);
      columns.dash.push(roof.kind === "measured" ? "solid" : "dashed");
      columns.name.push(
        `${roof.kind} roof ${roof.name}: ${si(peak, "FLOP/s")} ${roof.dtype}, ${si(bandwidth, "B/s")}`,
      );
    }
  });
  return columns;
}

function refresh() {
  const chosenPoints = withNumber.filter(isShown);
  dots.selected.indices = [];
  dots.data = dotColumns(chosenPoints);
  roofs.data = roofColumns(chosenPoints);
  path.data = { x: [], y: [] };
  current = null;
  byId("followed").replaceChildren();
  const thinned = numPoints < data.num_points
    ? ` This page holds ${numPoints.toLocaleString("en")} of ${data.num_points.toLocaleString("en")} points, every second value of the longest settings left out; the results folder has all.`
    : "";
  byId("shown").textContent =
    `${chosenPoints.length.toLocaleString("en")} of ${withNumber.length.toLocaleString("en")} points with a number are shown.${thinned}`;
  drawLegend(chosenPoints);
}

function drawLegend(chosenPoints) {
  const line = byId("roofline-legend");
  line.replaceChildren();
  const present = (name) => new Set(chosenPoints.map((point) => value(name, point)));
  const families = new Set([...present("operator")].map((name) => data.families[name]));
  for (const family of families) {
    const swatch = element("span", { "aria-hidden": "true" }, "●");
    swatch.style.color = colours.families[family];
    swatch.style.marginRight = "0.2rem";
    line.append(element("span", {}, swatch, family));
  }
  for (const phase of present("phase")) line.append(element("span", {}, `${GLYPHS[phase]} ${phase}`));
  for (const provenance of present("provenance")) {
    const glyph = HOLLOW.includes(provenance) ? "○" : DOTTED.includes(provenance) ? "⊙" : "●";
    line.append(element("span", {}, `${glyph} ${provenance}`));
  }
  for (const name of roofs.data.name) {
    line.append(element("span", {}, `${name.startsWith("measured") ? "──" : "╌╌"} ${name}`));
  }
}

function drawRoofline() {
  addFilters();
  roofline = chart("roofline-chart", {
    x_axis_type: "log", y_axis_type: "log", height: 560,
    x_axis_label: "operational intensity (FLOP/byte)", y_axis_label: "performance (FLOP/s)",
  });
  const lines = roofline.multi_line({ field: "xs" }, { field: "ys" }, {
    source: roofs, line_dash: { field: "dash" }, line_color: colours.ink, line_width: 1.5,
  });
  const labels = roofline.text({
    x: { field: "x" }, y: { field: "y" }, text: { field: "short" }, source: roofs,
    text_align: "right", text_baseline: "bottom", text_font_size: "12px", y_offset: -2,
  });
  const scatter = roofline.scatter({ field: "x" }, { field: "y" }, {
    source: dots, size: 8, marker: { field: "marker" }, line_color: { field: "colour" },
    fill_color: { field: "colour" }, fill_alpha: { field: "solid" }, line_alpha: 0.9,
    nonselection_fill_alpha: 0.03, nonselection_line_alpha: 0.08,
  });
  const followed = roofline.line({ field: "x" }, { field: "y" }, {
    source: path, line_color: colours.path, line_width: 2.5,
  });
  onTheme.push(() => {
    lines.glyph.line_color = labels.glyph.text_color = colours.ink;
    followed.glyph.line_color = colours.path;
    dots.data = { ...dots.data, ...lookAgain() };
    drawLegend(dots.data.index);
  });
  roofline.add_tools(
    new Bokeh.HoverTool({
      renderers: [scatter], limit: 3,
      tooltips: [
        ["operator", "@what"], ["setting", "@setting"], ["rate", "@rate"], ["roof", "@share"],
        ["spread", "@spread"], ["from", "@origin"],
      ],
    }),
    new Bokeh.TapTool({ renderers: [scatter] }),
  );
  dots.selected.properties.indices.change.connect(() => {
    const [first] = dots.selected.indices;
    if (first !== undefined && dots.data.index[first] !== current) followFrom(dots.data.index[first]);
  });
  refresh();
  show(roofline, "roofline-chart");
  byId("roofline-chart").addEventListener("keydown", onKey);
}

function lookAgain() {
  const { colour } = dotColumns(dots.data.index);
  return { colour };
}

// -- following one setting ----------------------------------------------------------------------

const SAME = ["folder", "model", "operator", "phase"];

/** Shown points that differ from this one in the followed setting alone, in its order. */
function pathOf(point) {
  const others = Object.keys(SETTINGS).filter((name) => name !== along);
  const alike = dots.data.index.filter(
    (other) =>
      SAME.every((name) => points[name][other] === points[name][point]) &&
      others.every((name) => points[name][other] === points[name][point]) &&
      ["dtype", "timing"].every((name) => value(name, other) === value(name, point)),
  );
  return alike.sort((a, b) => points[along][a] - points[along][b]);
}

function followFrom(point) {
  current = point;
  const found = pathOf(point);
  path.data = {
    x: column((p) => value("operational_intensity", p), found),
    y: column((p) => value("flops_per_s", p), found),
  };
  const position = new Map(dots.data.index.map((each, row) => [each, row]));
  dots.selected.indices = found.map((each) => position.get(each));
  const head = element("tr");
  for (const title of [SETTINGS[along], "FLOP/byte", "FLOP/s", "latency", "roof", "bound"])
    head.append(element("th", { scope: "col" }, title));
  const table = element("table", {}, head);
  for (const each of found) {
    const row = element("tr");
    const cells = [
      points[along][each], significant(value("operational_intensity", each)),
      si(value("flops_per_s", each), "FLOP/s"), duration(value("latency_s", each)),
      shareOf(each), boundOf(each),
    ];
    for (const cell of cells) row.append(element("td", {}, String(cell)));
    if (each === point) row.style.fontWeight = "bold";
    table.append(row);
  }
  const title = `${value("operator", point)} of ${value("model", point)} on ${value("title", point)}, ${settingOf(point)}`;
  byId("followed").replaceChildren(
    element("h3", {}, title),
    element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The points followed" }, table),
  );
}

/** Arrow keys step along the followed setting, Page Up and Down to the first of another series. */
function onKey(event) {
  const shown = dots.data.index;
  if (!shown.length) return;
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  const jump = { PageDown: 1, PageUp: -1 }[event.key];
  if (step === undefined && jump === undefined) return;
  event.preventDefault();
  if (current === null) return followFrom(shown[0]);
  const found = pathOf(current);
  if (step !== undefined) {
    const next = found[found.indexOf(current) + step];
    if (next !== undefined) followFrom(next);
    return;
  }
  const key = (point) => pathKey(point);
  const starts = [...new Map(shown.map((point) => [key(point), point]).reverse()).values()].reverse();
  const here = starts.findIndex((point) => key(point) === key(current));
  followFrom(starts[(here + jump + starts.length) % starts.length]);
}

function pathKey(point) {
  const others = Object.keys(SETTINGS).filter((name) => name !== along);
  return [...SAME, ...others].map((name) => points[name][point]).join(" ") +
    ` ${value("dtype", point)} ${value("timing", point)}`;
}

// -- the data as CSV ----------------------------------------------------------------------------

function csvText() {
  const rows = points.task.map((_, point) => data.export.map((name) => value(name, point)));
  return csvOf(data.export, rows);
}
