"use strict";
// Draws what esort.page.content has put into the page. Names of units come out of files: they are only ever text.
const content = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);
const INK = "#1f2733", SOFT = "#5c6675", ACCENT = "#0072b2", OTHER = "#e69f00", GRID = "#e8ebef";
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };
const colour = (index, alpha = 1) => `hsla(${(index * 137.508) % 360}, 62%, 44%, ${alpha})`;
const quantity = content.quantity;
let chosen = null;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e5 || (size > 0 && size < 1e-3) ? value.toExponential(1) : String(Number(value.toPrecision(digits)));
}

function layout(x, y, more = {}) {
  const axis = (title) => ({ title: { text: title, standoff: 6 }, gridcolor: GRID, zeroline: false, automargin: true, linecolor: GRID });
  const base = {
    margin: { l: 52, r: 12, t: 8, b: 40 }, font: { family: "inherit", size: 12, color: SOFT }, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, xaxis: axis(x), yaxis: axis(y),
  };
  for (const name of ["xaxis", "yaxis"]) Object.assign(base[name], more[name]);
  return { ...base, ...more, xaxis: base.xaxis, yaxis: base.yaxis };
}

function draw(id, traces, plan) { return Plotly.react(id, traces, plan, CONFIG); }

function empty(id, words) {
  const none = { visible: false };
  const note = { text: words, showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper", font: { size: 13, color: SOFT } };
  draw(id, [], layout("", "", { xaxis: none, yaxis: none, annotations: [note] }));
}

const points = (count) => (count > 3000 ? "scattergl" : "scatter");

function drawOverview() {
  const spikes = content.spikes, names = content.units.map((unit) => String(unit.id));
  byId("drift-note").textContent = spikes.time.length ? `${number(spikes.time.length)} spikes of ${number(content.num_spikes)}` : "";
  if (spikes.time.length) {
    const all = {
      type: points(spikes.time.length), mode: "markers", x: spikes.time, y: spikes.depth, hovertemplate: "unit %{text}<br>%{x:.2f} s, %{y:.0f} µm<extra></extra>",
      text: spikes.unit.map((index) => escaped(names[index])), marker: { size: 3.5, color: spikes.unit.map((index) => colour(index, 0.55)) },
    };
    draw("drift", [all, { ...all, x: [], y: [], text: [], marker: { size: 6, color: INK } }], layout("time (s)", "depth (µm)"));
    byId("drift").on("plotly_click", (event) => { if (event.points[0].curveNumber === 0) choose(spikes.unit[event.points[0].pointIndex]); });
  } else empty("drift", "no spike was looked at closely");
  const placed = content.units.map((unit, index) => ({ ...unit, index })).filter((unit) => unit.x !== null);
  const contacts = { type: "scatter", mode: "markers", x: content.probe.x, y: content.probe.y, hovertemplate: "channel %{text}<extra></extra>",
    text: content.probe.ids.map((id) => escaped(String(id))), marker: { symbol: "square", size: 5, color: "#c9d0d8" } };
  const largest = Math.max(1e-9, ...placed.map((unit) => unit.amplitude));
  const units = { type: "scatter", mode: "markers", x: placed.map((unit) => unit.x), y: placed.map((unit) => unit.y), customdata: placed.map((unit) => unit.index),
    text: placed.map((unit) => escaped(String(unit.id))), hovertemplate: "unit %{text}<br>%{x:.0f}, %{y:.0f} µm<extra></extra>",
    marker: { size: placed.map((unit) => 7 + 15 * Math.sqrt(unit.amplitude / largest)), color: placed.map((unit) => colour(unit.index, 0.75)), line: { color: "#fff", width: 1 } } };
  const ring = { type: "scatter", mode: "markers", x: [], y: [], hoverinfo: "skip", marker: { size: 26, symbol: "circle-open", color: INK, line: { width: 2.5 } } };
  draw("probe", [contacts, units, ring], layout("x (µm)", "depth (µm)"));
  byId("probe").on("plotly_click", (event) => { const index = event.points[0].customdata; if (index !== undefined) choose(index); });
  draw("activity", [{ type: "bar", x: content.bins.centre_s, y: content.bins.rate_hz, marker: { color: ACCENT }, hovertemplate: "%{x:.0f} s: %{y:.1f} spikes/s<extra></extra>" }],
    layout("time (s)", "spikes / s", { bargap: 0.08 }));
  drawMotion();
  drawHealth();
}

function drawHealth() {
  const health = content.health;
  if (!health) return;
  byId("unknown-panel").hidden = byId("health-panel").hidden = false;
  byId("unknown-note").textContent = health.note;
  if (health.time_s.length) draw("unknown", [{ type: points(health.time_s.length), mode: "markers", x: health.time_s, y: health.depth_um, text: health.size,
    marker: { size: 4, color: OTHER, opacity: 0.6 }, hovertemplate: "%{x:.2f} s, %{y:.0f} µm<br>%{text} noise levels<extra></extra>" }],
    layout("time (s)", "depth (µm)", { xaxis: { range: content.range_s } }));
  else empty("unknown", "none");
  byId("health-title").textContent = `Do the units fit? Worst minute: ${health.verdict}`;
  const lines = health.lines.length ? health.lines.concat(health.more ? [`and ${health.more} more minutes, see run.json`] : []) : ["All minutes fit."];
  byId("health").replaceChildren(...lines.map((line) => element("li", line)));
}

function drawMotion() {
  const motion = content.motion;
  if (!motion) return;
  byId("motion-panel").hidden = false;
  const shade = (row) => `hsl(${205 + (70 * row) / Math.max(1, motion.depth_um.length - 1)}, 65%, 40%)`;
  const lines = motion.depth_um.map((depth, row) => ({ type: "scatter", mode: "lines", name: `${depth} µm`, x: motion.time_s, y: motion.shift_um[row],
    line: { color: shade(row), width: 1.5, shape: "hvh" }, hovertemplate: `%{x:.1f} s, depth ${depth} µm: %{y} µm<extra></extra>` }));
  const still = Math.max(10, ...motion.shift_um.flat().map(Math.abs));
  draw("motion", lines, layout("time (s)", "shift (µm)", { xaxis: { range: content.range_s }, yaxis: { range: [-1.1 * still, 1.1 * still] } }));
}

// Plotly reads a little HTML in its texts.
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function drawWaveform(unit) {
  if (!unit.waveform) return empty("waveform", "none of its spikes was looked at closely");
  const { channels, values } = unit.waveform;
  const xs = channels.map((channel) => content.probe.x[channel]), ys = channels.map((channel) => content.probe.y[channel]);
  const largest = Math.max(1e-9, ...values.flat().map(Math.abs)), times = content.waveform_ms;
  const apart = (places) => { const sorted = [...new Set(places)].sort((a, b) => a - b); const steps = sorted.slice(1).map((value, i) => value - sorted[i]).filter((step) => step > 1); return steps.length ? Math.min(...steps) : 20; };
  const width = 0.85 * apart(xs), height = 1.3 * apart(ys), span = times[times.length - 1] - times[0];
  const x = [], y = [], text = [];
  channels.forEach((channel, row) => {
    times.forEach((time, i) => { x.push(xs[row] + ((time - times[0]) / span - 0.5) * width); y.push(ys[row] + (values[row][i] / largest) * height); text.push(`channel ${escaped(String(content.probe.ids[channel]))}<br>${time.toFixed(2)} ms: ${values[row][i].toFixed(1)} ${quantity}`); });
    x.push(null); y.push(null); text.push("");
  });
  const contacts = { type: "scatter", mode: "markers", x: xs, y: ys, hoverinfo: "skip", marker: { symbol: "square", size: 5, color: "#d7dce2" } };
  draw("waveform", [contacts, { type: "scatter", mode: "lines", x, y, text, hovertemplate: "%{text}<extra></extra>", line: { color: colour(unit.index), width: 1.6 } }],
    layout("x (µm)", "depth (µm)", { xaxis: { showgrid: false }, yaxis: { showgrid: false } }));
}

function drawUnit(unit) {
  drawWaveform(unit);
  draw("autocorrelogram", [{ type: "bar", x: content.correlogram_ms, y: unit.autocorrelogram, marker: { color: colour(unit.index) }, hovertemplate: "%{x} ms: %{y} pairs<extra></extra>" }],
    layout("lag (ms)", "pairs of spikes", { bargap: 0 }));
  const own = content.spikes.unit.flatMap((index, i) => (index === unit.index ? [i] : []));
  const time = own.map((i) => content.spikes.time[i]);
  if (own.length) draw("amplitude", [{ type: points(own.length), mode: "markers", x: time, y: own.map((i) => content.spikes.amplitude[i]), marker: { size: 5, color: colour(unit.index, 0.6) }, hovertemplate: "%{x:.2f} s: %{y:.1f}<extra></extra>" }],
    layout("time (s)", `amplitude (${quantity})`, { xaxis: { range: content.range_s } }));
  else empty("amplitude", "none of its spikes was looked at closely");
  const course = [{ type: "scatter", mode: "lines", name: "rate", x: content.bins.centre_s, y: unit.rates, line: { color: ACCENT, shape: "hvh" }, fill: "tozeroy", fillcolor: "rgba(0,114,178,0.10)" }];
  if (unit.probabilities) course.push({ type: "scatter", mode: "lines+markers", name: "probability", x: content.bins.centre_s, y: unit.probabilities, yaxis: "y2", line: { color: OTHER }, marker: { size: 4 } });
  draw("course", course, layout("time (s)", "spikes / s", { showlegend: true, legend: { orientation: "h", y: 1.12, x: 0 }, margin: { l: 52, r: 48, t: 22, b: 40 }, yaxis: { rangemode: "tozero" },
    yaxis2: { title: { text: "mean probability" }, overlaying: "y", side: "right", range: [0, 1.03], tickmode: "linear", dtick: 0.25, showgrid: false } }));
  if (content.spikes.time.length) Plotly.restyle("drift", { x: [time], y: [own.map((i) => content.spikes.depth[i])] }, [1]);
  Plotly.restyle("probe", { x: [unit.x === null ? [] : [unit.x]], y: [unit.y === null ? [] : [unit.y]] }, [2]);
}

function choose(index, scroll = true) {
  const unit = { ...content.units[index], index };
  chosen = index;
  byId("unit-name").textContent = `Unit ${unit.id}`;
  byId("unit").dataset.unit = String(unit.id);
  const facts = [["spikes", unit.num_spikes], ["spikes / s", unit.rate_hz], ["mean probability", unit.probability], ["signal to noise", unit.snr], [`amplitude (${quantity})`, unit.amplitude], ...unit.facts];
  byId("unit-facts").replaceChildren(...facts.filter((fact) => fact[1] !== null).map(([name, value]) => {
    const fact = element("span", `${name} `);
    fact.append(element("b", typeof value === "string" ? value : number(value)));
    return fact;
  }));
  for (const row of document.querySelectorAll("[data-index]")) {
    const is = Number(row.dataset.index) === index;
    row.classList.toggle("chosen", is);
    if (row.getAttribute("role") === "option") { row.setAttribute("aria-selected", is); if (is && scroll) row.scrollIntoView({ block: "nearest" }); }
  }
  drawUnit(unit);
}

function fillList() {
  content.units.forEach((unit, index) => {
    const row = element("button", undefined, "row");
    row.dataset.index = index; row.tabIndex = -1; row.setAttribute("role", "option");
    const dot = element("i"); dot.style.background = colour(index);
    row.append(dot, element("span", String(unit.id)), element("small", `${number(unit.num_spikes)} spikes`));
    row.addEventListener("click", () => choose(index));
    byId("list").append(row);
  });
  byId("search").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase();
    for (const row of byId("list").children) row.hidden = row.style.display = String(content.units[row.dataset.index].id).toLowerCase().includes(words) ? "" : "none";
  });
  byId("list").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !content.units.length) return;
    event.preventDefault();
    choose(Math.min(content.units.length - 1, Math.max(0, chosen + step)));
  });
}

function fillMetrics() {
  const { columns, rows } = content.metrics, head = element("tr"), body = byId("metrics").tBodies[0];
  let sorted = { column: -1, up: true };
  const lines = rows.map((row, index) => {
    const line = element("tr"); line.dataset.index = index;
    line.append(element("td", String(content.units[index].id)), ...row.map((value) => element("td", number(value))));
    line.addEventListener("click", () => { choose(index); byId("units").scrollIntoView({ behavior: "smooth" }); });
    return line;
  });
  [["unit", ""], ...columns].forEach(([name, meaning], column) => {
    const cell = element("th", name); cell.title = meaning; cell.scope = "col";
    cell.addEventListener("click", () => {
      sorted = { column, up: sorted.column === column ? !sorted.up : true };
      const value = (line) => (column === 0 ? Number(line.dataset.index) : rows[line.dataset.index][column - 1] ?? Infinity);
      body.replaceChildren(...lines.toSorted((a, b) => (value(a) - value(b) || 0) * (sorted.up ? 1 : -1)));
    });
    head.append(cell);
  });
  byId("metrics").tHead.append(head);
  body.append(...lines);
}

function drawAccuracy() {
  const accuracy = content.accuracy;
  if (!accuracy) return;
  byId("accuracy-section").hidden = false;
  byId("accuracy-title").textContent = accuracy.title;
  const units = accuracy.units.filter((unit) => unit.snr !== null), missing = accuracy.units.length - units.length;
  draw("accuracy", [{ type: "scatter", mode: "markers", x: units.map((unit) => unit.snr), y: units.map((unit) => unit.value), customdata: units.map((unit) => unit.index),
    text: units.map((unit) => escaped(`${unit.id}${unit.matched === null ? ", not found" : ` as ${unit.matched}`}: ${number(unit.num_spikes)} spikes`)),
    hovertemplate: "%{text}<br>%{y:.3f} at signal to noise %{x:.1f}<extra></extra>",
    marker: { size: 9, color: units.map((unit) => (unit.index === null ? "#b9c0c9" : colour(unit.index, 0.8))), line: { color: "#fff", width: 1 } } }],
    layout("signal to noise" + (missing ? ` (unknown for ${missing})` : ""), accuracy.axis, { yaxis: { range: [-0.03, 1.04] }, xaxis: { rangemode: "tozero" } }));
  byId("accuracy").on("plotly_click", (event) => { const index = event.points[0].customdata; if (index !== null) choose(index); });
  const confusion = content.confusion;
  byId("confusion-title").textContent = confusion ? confusion.title : "";
  if (!confusion) return empty("confusion", "nothing to compare with");
  const label = (names) => names.map((name) => escaped(String(name)));
  const many = Math.max(confusion.rows.length, confusion.columns.length) > 40;
  const axis = (names) => ({ type: "category", showgrid: false, showticklabels: !many, ticks: "", tickvals: names.map((_, i) => i), ticktext: label(names) });
  draw("confusion", [{ type: "heatmap", z: confusion.share, text: confusion.text, x: confusion.columns.map((_, i) => i), y: confusion.rows.map((_, i) => i), customdata: confusion.rows.map((row) => confusion.columns.map((column) => escaped(`${row} / ${column}`))),
    zmin: 0, zmax: 1, colorscale: [[0, "#ffffff"], [0.02, "#e4eff7"], [1, "#005a8e"]], hovertemplate: "%{customdata}<br>%{text}<extra></extra>", colorbar: { thickness: 10, outlinewidth: 0 } }],
    layout(confusion.across, confusion.down, { xaxis: axis(confusion.columns), yaxis: { ...axis(confusion.rows), autorange: "reversed" } }));
}

function drawLabels() {
  const labels = content.labels;
  if (!labels) return;
  byId("labels-panel").hidden = false;
  byId("labels-note").textContent = `lines: what calibration expects, had the unit more labels or fewer; ${labels.known ? `points: ${labels.known} with those it has` : "points: expected with those it has"}`;
  const shade = (unit, alpha) => (unit.index === null ? "#b9c0c9" : colour(unit.index, alpha));
  const lines = labels.units.map((unit) => ({ type: "scatter", mode: "lines", x: unit.curve.labels, y: unit.curve.accuracy, line: { color: shade(unit, 0.45), width: 1.4 }, hoverinfo: "skip" }));
  const shown = labels.units.filter((unit) => !labels.known || unit.measured !== null);
  const now = { type: "scatter", mode: "markers", x: shown.map((unit) => unit.labels), y: shown.map((unit) => (labels.known ? unit.measured : unit.expected)), customdata: shown.map((unit) => unit.index),
    text: shown.map((unit) => escaped(`unit ${unit.id}, ${unit.labels} labels: ${unit.advice}`)), hovertemplate: "%{text}<br>%{y:.3f}<extra></extra>",
    marker: { size: 9, color: shown.map((unit) => shade(unit, 0.85)), line: { color: "#fff", width: 1 } } };
  draw("labels", [...lines, now], layout("labels of the unit", "accuracy", { xaxis: { type: "log" }, yaxis: { range: [-0.03, 1.04] } }));
  byId("labels").on("plotly_click", (event) => { const index = event.points[0].customdata; if (index !== null && index !== undefined) choose(index); });
}

function fillRest() {
  byId("subtitle").textContent = content.subtitle;
  for (const { name, value, note } of content.cards) {
    const card = element("div", undefined, "card");
    card.append(element("b", value), element("span", name)); card.title = note;
    byId("cards").append(card);
  }
  for (const { title, source } of content.pictures) {
    const figure = element("figure", undefined, "panel"), image = element("img");
    image.src = source; image.alt = title;
    figure.append(element("figcaption", title), image);
    byId("pictures").append(figure);
  }
  byId("notes").append(...content.notes.map((note) => element("li", note)));
  for (const [name, value] of content.facts) {
    const line = element("tr"); line.append(element("td", name), element("td", value));
    byId("facts").tBodies[0].append(line);
  }
}

fillRest(); drawOverview(); fillList(); fillMetrics(); drawAccuracy(); drawLabels();
if (content.units.length) choose(Math.max(0, content.units.findIndex((unit) => unit.waveform)), false);
else byId("units").hidden = true;
document.body.dataset.ready = "true";
