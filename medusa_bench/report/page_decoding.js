"use strict";
// Where decoding pays: the map, its curves over candidates, the slowest points, the tree.

const column_of = (packed) =>
  Array.isArray(packed) ? packed : packed.indices.map((index) => packed.words[index]);

const studies = data.studies.map((study) => ({
  ...study,
  rows: Object.fromEntries(Object.entries(study.rows).map(([name, of]) => [name, column_of(of)])),
}));
const CURVES = ["acceleration_rate", "overhead", "speedup"];
const LINES = { light: ["#004488", "#BB5566", "#997700"], dark: ["#6699CC", "#EE99AA", "#EECC66"] };
const lineColours = () => (colours === DARK ? LINES.dark : LINES.light);

let study = 0; // which of studies
let method = ""; // which of its lists of best rows
let cell = null; // the row whose curves are shown

/** A method as it is named; what drafts for it is told only where there is a choice. */
const nameOf = (row) => {
  const rows = rowsOf();
  return rows.method[row] === "draft-model" ? `draft-model ${rows.draft[row]}` : rows.method[row];
};

const rowsOf = () => studies[study].rows;
const bestOf = () => studies[study].best[method];
const ordered = (values) => [...new Set(values)].sort((a, b) => a - b);

// -- the map ------------------------------------------------------------------------------------

const cells = new Bokeh.ColumnDataSource({ data: {} });
const chosenCell = new Bokeh.ColumnDataSource({ data: { x: [], y: [] } });
let map;
let shades;

/** Orange where it pays and purple where it does not, as in the figures; neutral at 1. */
function palette() {
  const ends = [[0x54, 0x27, 0x88], [0xb3, 0x58, 0x06]];
  const middle = colours === DARK ? [0x2a, 0x2f, 0x36] : [0xf7, 0xf7, 0xf7];
  const mix = (from, to, share) =>
    `#${from.map((f, i) => Math.round(f + (to[i] - f) * share).toString(16).padStart(2, "0")).join("")}`;
  const steps = 32;
  return [
    ...Array.from({ length: steps }, (_, i) => mix(ends[0], middle, i / (steps - 1))),
    ...Array.from({ length: steps }, (_, i) => mix(middle, ends[1], i / (steps - 1))),
  ];
}

/** On a scale where 1/2 is as far from 1 as 2 is. */
const shade = (speedup) => Math.log2(speedup);

function shadeColour(value) {
  const { palette: all, high } = shades;
  const at = Math.floor(((value + high) / (2 * high)) * all.length);
  return all[Math.min(Math.max(at, 0), all.length - 1)];
}

/** Black or white, whichever reads better on a colour (its relative luminance, WCAG 2). */
function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => {
    const share = parseInt(colour.slice(at, at + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
}

function cellColumns() {
  const rows = rowsOf();
  const best = bestOf();
  const of = (name) => best.map(({ row }) => rows[name][row]);
  const marks = best.map(({ row }) =>
    rows.outcome[row] === "uncertain" && rows.speedup_low[row] < rows.speedup_high[row] ? "?" : "");
  const sizes = best.map(({ row }) => rows.num_candidates[row]);
  const [low, high] = [of("speedup_low"), of("speedup_high")];
  const digits = isNarrow ? 1 : 2;
  return {
    row: best.map(({ row }) => row),
    x: of("batch_size").map(String),
    y: of("seq_len").map(String),
    shade: of("speedup").map(shade),
    top: of("speedup").map((speedup, i) => `${speedup.toFixed(2)}${marks[i]}`),
    middle: sizes.map((size) => `@${size}`),
    bottom: low.map((l, i) => (l < high[i] ? `${l.toFixed(digits)}–${high[i].toFixed(digits)}` : "")),
    ink: of("speedup").map((speedup) => inkOn(shadeColour(shade(speedup)))),
    hatch: of("speedup").map((speedup) => (speedup > 1 ? "blank" : "right_diagonal_line")),
    method: best.map(({ row }) => nameOf(row)),
    near: best.map(({ fewest, most }) => (fewest === most ? `${fewest}` : `${fewest} to ${most}`)),
    interval: low.map((l, i) => (l < high[i] ? `${l.toFixed(2)} to ${high[i].toFixed(2)}` : "unknown")),
    bound: of("bound").map((bound) => bound ?? "unknown"),
    origin: of("source").map((source, i) => `${source}; ${of("latency_source")[i]}`),
    accepts: of("acceptance_source"),
  };
}

function drawMap() {
  map = chart("map-chart", {
    x_range: new Bokeh.FactorRange({ factors: [] }), y_range: new Bokeh.FactorRange({ factors: [] }),
    height: 470, x_axis_label: "batch size", y_axis_label: "cached tokens per sequence",
    tools: "save",
  });
  for (const grid of map.center) if (grid.type === "Grid") grid.visible = false;
  shades = new Bokeh.LinearColorMapper({ palette: palette(), low: -1, high: 1 });
  const rects = map.rect({
    x: { field: "x" }, y: { field: "y" }, width: 1, height: 1, source: cells,
    fill_color: { field: "shade", transform: shades }, line_color: colours.paper,
    hatch_pattern: { field: "hatch" }, hatch_color: colours.soft, hatch_alpha: 0.35, hatch_scale: 11,
    nonselection_fill_alpha: 1, nonselection_hatch_alpha: 0.35,
  });
  const size = isNarrow ? "9px" : "13px";
  for (const [field, shift] of [["top", -1.1], ["middle", 0], ["bottom", 1.1]]) {
    map.text({
      x: { field: "x" }, y: { field: "y" }, text: { field }, source: cells,
      text_color: { field: "ink" }, text_align: "center", text_baseline: "middle",
      y_offset: shift * (isNarrow ? 11 : 16), text_font_size: size,
      text_font_style: field === "top" ? "bold" : "normal",
    });
  }
  const outline = map.rect({
    x: { field: "x" }, y: { field: "y" }, width: 1, height: 1, source: chosenCell,
    fill_color: null, line_color: colours.ink, line_width: 3,
  });
  map.add_tools(
    new Bokeh.HoverTool({
      renderers: [rects], limit: 1,
      tooltips: [
        ["batch, sequence", "@x, @y"], ["best", "@top with @method"], ["90 % interval", "@interval"],
        ["candidates", "@middle; within 2 %: @near"], ["bound by", "@bound"], ["from", "@origin"],
        ["acceptance", "@accepts"],
      ],
    }),
    new Bokeh.TapTool({ renderers: [rects] }),
  );
  cells.selected.properties.indices.change.connect(() => {
    const [first] = cells.selected.indices;
    if (first !== undefined) chooseCell(first);
  });
  onTheme.push(() => {
    shades.palette = palette();
    rects.glyph.line_color = colours.paper;
    outline.glyph.line_color = colours.ink;
    cells.data = cellColumns();
  });
}

function refreshMap() {
  const rows = rowsOf();
  const [low, high] = range(bestOf().map(({ row }) => rows.speedup[row]));
  const extent = Math.max(shade(1.5), Math.abs(shade(low)), Math.abs(shade(high)));
  shades.low = -extent;
  shades.high = extent;
  map.x_range.factors = ordered(rows.batch_size).map(String);
  map.y_range.factors = ordered(rows.seq_len).map(String);
  map.height = 110 + 54 * map.y_range.factors.length;
  cells.selected.indices = [];
  cells.data = cellColumns();
  const best = bestOf().map(({ row }) => rows.speedup[row]);
  const paying = best.filter((speedup) => speedup > 1).length;
  byId("map-words").textContent =
    `It pays at ${paying} of ${best.length} settings; speedups from ${low.toFixed(2)} to ${high.toFixed(2)}.`;
  const start = bestOf().findIndex(
    ({ row }) => rows.batch_size[row] === Math.min(...map.x_range.factors.map(Number)) && rows.seq_len[row] === studies[study].seq_len,
  );
  chooseCell(Math.max(start, 0));
}

function chooseCell(index) {
  cell = cells.data.row[index];
  chosenCell.data = { x: [cells.data.x[index]], y: [cells.data.y[index]] };
  refreshCurves();
}

function onMapKey(event) {
  const move = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!move) return;
  event.preventDefault();
  const step = (factors, at, by) => factors[factors.indexOf(at) + by];
  const x = step(map.x_range.factors, chosenCell.data.x[0], move[0]);
  const y = step(map.y_range.factors, chosenCell.data.y[0], move[1]);
  const index = cells.data.x.findIndex((each, i) => each === x && cells.data.y[i] === y);
  if (index >= 0) chooseCell(index);
}

// -- curves over candidates ---------------------------------------------------------------------

const curves = Object.fromEntries(
  CURVES.map((name) => [name, new Bokeh.ColumnDataSource({ data: { x: [], y: [] } })]),
);
const band = new Bokeh.ColumnDataSource({ data: { x: [], low: [], high: [] } });
const leaps = new Bokeh.ColumnDataSource({ data: { x: [] } });
const family = new Bokeh.ColumnDataSource({ data: { xs: [], ys: [], colour: [], name: [] } });
const familyNames = new Bokeh.ColumnDataSource({ data: { x: [], y: [], name: [] } });
const familyDots = new Bokeh.ColumnDataSource({ data: { x: [], y: [], colour: [], name: [] } });

/** Rows of the chosen cell's method that share its sequence length, by batch size. */
function alike() {
  const rows = rowsOf();
  const found = new Map();
  rows.method.forEach((name, row) => {
    const same = ["method", "draft", "seq_len"].every((each) => rows[each][row] === rows[each][cell]);
    if (same) found.set(rows.batch_size[row], [...(found.get(rows.batch_size[row]) ?? []), row]);
  });
  for (const group of found.values())
    group.sort((a, b) => rows.num_candidates[a] - rows.num_candidates[b]);
  return found;
}

function refreshCurves() {
  const rows = rowsOf();
  const groups = alike();
  const curve = groups.get(rows.batch_size[cell]);
  const at = (name) => curve.map((row) => rows[name][row]);
  for (const name of CURVES) curves[name].data = { x: at("num_candidates"), y: at(name) };
  band.data = { x: at("num_candidates"), low: at("speedup_low"), high: at("speedup_high") };
  const cliff = studies[study].cliffs.find((each) =>
    ["method", "batch_size", "seq_len"].every((name) => each[name] === rows[name][cell]));
  leaps.data = { x: cliff ? cliff.after : [] };
  const keys = [...groups.keys()].sort((a, b) => a - b);
  const ramp = keys.map((_, i) => Bokeh.Palettes.Cividis256[Math.round(
    (colours === DARK ? 100 : 10) + ((colours === DARK ? 155 : 190) * i) / Math.max(1, keys.length - 1))]);
  family.data = {
    xs: keys.map((key) => groups.get(key).map((row) => rows.num_candidates[row])),
    ys: keys.map((key) => groups.get(key).map((row) => rows.speedup[row])),
    colour: ramp, name: keys.map((key) => `batch ${key}`),
  };
  const ends = keys.map((key) => groups.get(key).at(-1));
  familyNames.data = {
    x: ends.map((row) => rows.num_candidates[row]), y: ends.map((row) => rows.speedup[row]),
    name: keys.map((key, i) => (i ? `${key}` : `batch ${key}`)),
  };
  const all = keys.flatMap((key, i) => groups.get(key).map((row) => [row, i]));
  familyDots.data = {
    x: all.map(([row]) => rows.num_candidates[row]), y: all.map(([row]) => rows.speedup[row]),
    colour: all.map(([, i]) => ramp[i]), name: all.map(([, i]) => `${keys[i]}`),
    size: all.map(([row]) => (row === cell ? 11 : 5)),
  };
  const setting = `batch size ${rows.batch_size[cell]}, ${rows.seq_len[cell]} cached tokens`;
  byId("cliff-words").textContent = `${nameOf(cell)} at ${setting} (${rows.source[cell]}): ` +
    (cliff
      ? `the step's latency leaps after ${cliff.after.join(", ")} candidates (dotted): stay at or below one of them.`
      : "no cliff among the sizes compared.");
}

function drawCurves() {
  const left = chart("curve-chart", { x_axis_label: "candidates, the root included", y_axis_label: "ratio to vanilla decoding" });
  const right = chart("batches-chart", { x_axis_label: "candidates, the root included", y_axis_label: "speedup" });
  const area = left.varea({ x: { field: "x" }, y1: { field: "low" }, y2: { field: "high" }, source: band, fill_alpha: 0.2 });
  const dashes = ["dashed", "dotdash", "solid"];
  const drawnLines = CURVES.map((name, i) => {
    const source = curves[name];
    return [
      left.line({ field: "x" }, { field: "y" }, { source, line_width: 2, line_dash: dashes[i] }),
      left.scatter({ field: "x" }, { field: "y" }, { source, size: 6, marker: ["square", "triangle", "circle"][i] }),
    ];
  });
  addLegend(left, drawnLines.map((pair, i) => [["acceleration rate", "overhead", "speedup, 90 % band"][i], pair]));
  const vertical = left.vspan({ field: "x" }, { source: leaps, line_dash: "dotted", line_width: 2 });
  const ones = [left, right].map((figure) => figure.hspan({ value: 1 }, { line_width: 1 }));
  right.multi_line({ field: "xs" }, { field: "ys" }, { source: family, line_color: { field: "colour" }, line_width: 2 });
  const points = right.scatter({ field: "x" }, { field: "y" }, {
    source: familyDots, size: { field: "size" }, fill_color: { field: "colour" }, line_color: { field: "colour" },
  });
  const names = right.text({
    x: { field: "x" }, y: { field: "y" }, text: { field: "name" }, source: familyNames,
    x_offset: 7, text_baseline: "middle", text_font_size: "12px",
  });
  right.x_range.range_padding = isNarrow ? 0.4 : 0.2; // room for the names
  left.add_tools(new Bokeh.HoverTool({ renderers: drawnLines.map(([, dot]) => dot), tooltips: [["candidates", "@x"], ["ratio", "@y{0.000}"]] }));
  right.add_tools(new Bokeh.HoverTool({ renderers: [points], limit: 2, tooltips: [["batch", "@name"], ["candidates", "@x"], ["speedup", "@y{0.000}"]] }));
  const repaint = () => {
    area.glyph.fill_color = lineColours()[2];
    drawnLines.forEach(([line, dot], i) => {
      line.glyph.line_color = lineColours()[i];
      dot.glyph.line_color = dot.glyph.fill_color = lineColours()[i];
    });
    vertical.glyph.line_color = colours.soft;
    names.glyph.text_color = colours.ink;
    for (const one of ones) one.glyph.line_color = colours.soft;
    refreshCurves();
  };
  onTheme.push(repaint);
  return [left, right];
}

function addStudyFilters() {
  const form = document.querySelector("#break-even .filters");
  const which = element("select", { name: "study" });
  studies.forEach((each, index) => which.append(new Option(each.title, index)));
  const methods = element("select", { name: "method" });
  const fill = () => {
    const names = Object.keys(studies[study].best);
    methods.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes("medusa")) methods.value = "medusa";
    method = methods.value;
  };
  which.addEventListener("change", () => {
    study = Number(which.value);
    fill();
    refreshMap();
  });
  methods.addEventListener("change", () => {
    method = methods.value;
    refreshMap();
  });
  fill();
  form.append(element("label", {}, "Model and GPU", which), element("label", {}, "Method", methods));
  form.addEventListener("submit", (event) => event.preventDefault());
}

/** Every row compared, of all studies, with the study it belongs to. */
function rowsCsvText() {
  const names = Object.keys(studies[0].rows);
  const rows = studies.flatMap(({ title, rows: of }) =>
    of.method.map((_, row) => [title, ...names.map((name) => of[name][row])]));
  return csvOf(["study", ...names], rows);
}

function drawDecoding() {
  if (!studies.length) return;
  addStudyFilters();
  drawMap();
  const [left, right] = drawCurves();
  refreshMap();
  show(map, "map-chart");
  show(left, "curve-chart");
  show(right, "batches-chart");
  byId("map-chart").addEventListener("keydown", onMapKey);
}

// -- the slowest points -------------------------------------------------------------------------

const PARTS = { launch_s: "launch", bandwidth_s: "memory", compute_s: "compute", tile_s: "tiles", unexplained_s: "unexplained" };
// Told apart by hatching too, so that grey print keeps them.
const PART_LOOKS = {
  launch_s: ["#BBBBBB", "blank"], bandwidth_s: ["#4477AA", "blank"], compute_s: ["#DDAA33", "blank"],
  tile_s: ["#BB5566", "right_diagonal_line"], unexplained_s: ["#888888", "cross"],
};

function drawSlowest() {
  data.slowest.forEach((each, index) => {
    const id = `split-chart-${index}`;
    const holder = element("div", {}, element("h3", {}, each.title), element("div", { class: "chart", id }), element("p", { class: "note" }, `Split by the latency model of ${each.latency_source}.`));
    byId("split-charts").append(holder);
    const { label } = each.columns;
    const rows = label.length;
    const figure = chart(id, {
      height: 90 + 26 * rows, x_axis_label: "ms", tools: "save",
      y_range: new Bokeh.FactorRange({ factors: [...label].reverse() }),
    });
    const entries = [];
    for (const [name, words] of Object.entries(PARTS)) {
      const start = Object.keys(PARTS).slice(0, Object.keys(PARTS).indexOf(name));
      const left = label.map((_, i) => start.reduce((sum, part) => sum + each.columns[part][i], 0));
      const value = each.columns[name];
      const bars = {
        y: label, left: left.map((l) => 1e3 * l), right: left.map((l, i) => 1e3 * (l + value[i])),
        part: label.map(() => words), time: value.map((v) => (v < 0 ? `-${duration(-v)}` : duration(v))),
        share: value.map((v, i) => `${significant((100 * v) / each.columns.latency_s[i], 2)} %`),
        total: each.columns.latency_s.map(duration),
      };
      const negative = value.map((v) => name === "unexplained_s" && v < 0);
      bars.left = bars.left.map((l, i) => (negative[i] ? 1e3 * value[i] : l));
      bars.right = bars.right.map((r, i) => (negative[i] ? 0 : r));
      const [colour, hatch] = PART_LOOKS[name];
      const made = figure.hbar({
        y: { field: "y" }, left: { field: "left" }, right: { field: "right" }, height: 0.7,
        source: new Bokeh.ColumnDataSource({ data: bars }), fill_color: colour, line_color: null,
        hatch_pattern: hatch, hatch_color: "#ffffff", hatch_alpha: 0.7, hatch_scale: 6,
      });
      entries.push([words, [made]]);
      figure.add_tools(new Bokeh.HoverTool({
        renderers: [made], limit: 1,
        tooltips: [["point", "@y"], ["part", "@part, @time, @share"], ["in all", "@total"]],
      }));
    }
    addLegend(figure, entries);
    show(figure, id);
  });
}

// -- the candidate tree -------------------------------------------------------------------------

function drawTree() {
  const { tree } = data;
  if (!tree) return;
  const depth = Math.max(...tree.depth);
  const figure = chart("tree-chart", { height: 120 + 60 * depth, tools: "save" });
  figure.below[0].visible = false;
  for (const grid of figure.center) if (grid.type === "Grid") grid.visible = false;
  figure.left[0].ticker = new Bokeh.FixedTicker({ ticks: Array.from({ length: depth + 1 }, (_, d) => -d) });
  figure.left[0].major_label_overrides = new Map(
    Array.from({ length: depth + 1 }, (_, d) => [-d, d ? `head ${d}` : "root"]));
  const rest = tree.x.map((_, i) => i).slice(1);
  const y = tree.depth.map((d) => -d);
  const edges = new Bokeh.ColumnDataSource({ data: {
    xs: rest.map((i) => [tree.x[tree.parent[i]], tree.x[i]]), ys: rest.map((i) => [y[tree.parent[i]], y[i]]),
    width: rest.map((i) => (tree.likeliest[i] ? 3 : 1)), colour: rest.map(() => "#888888"),
  } });
  const nodes = new Bokeh.ColumnDataSource({ data: {
    x: tree.x, y, path: tree.path, chance: tree.probability.map((p) => percent(p)),
    size: tree.probability.map((p) => 4 + 22 * Math.sqrt(p)), colour: tree.x.map(() => "#888888"),
  } });
  figure.multi_line({ field: "xs" }, { field: "ys" }, { source: edges, line_width: { field: "width" }, line_color: { field: "colour" } });
  const made = figure.scatter({ field: "x" }, { field: "y" }, { source: nodes, size: { field: "size" }, fill_color: { field: "colour" }, line_color: { field: "colour" } });
  figure.add_tools(new Bokeh.HoverTool({ renderers: [made], limit: 1, tooltips: [["guesses", "@path"], ["accepted", "@chance"]] }));
  onTheme.push(() => {
    const [blue, red] = lineColours();
    edges.data = { ...edges.data, colour: rest.map((i) => (tree.likeliest[i] ? red : colours.soft)) };
    nodes.data = { ...nodes.data, colour: tree.likeliest.map((likely) => (likely ? red : blue)) };
  });
  show(figure, "tree-chart");
}
