// Draws a Grafana dashboard from a Prometheus, as far as uadray's dashboards go: to look at them without Grafana.
"use strict";

const PALETTE = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d",
  "#fade2a", "#447ebc", "#c15c17", "#890f02", "#0a437c", "#6d1f62", "#96d98d"];
const COLORS = {green: "#73bf69", yellow: "#f2cc0c", red: "#f2495c", blue: "#5794f2"};
const CELL = {width: 64, height: 30, gap: 8};

const color = (name) => COLORS[name] || name;
const escaped = (text) => String(text).replace(/[&<>"]/g, (one) => `&#${one.charCodeAt(0)};`);
const pattern = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const span = (seconds) => `${Math.max(1, Math.round(seconds))}s`;

// ---- Prometheus

async function ask(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) query.append(name, value);
  const answer = await (await fetch(`${state.prometheus}${path}?${query}`)).json();
  if (answer.status !== "success") throw new Error(answer.error);
  return answer.data;
}

function filled(text, scoped, seconds) {
  const built = {
    __range: span(state.end - state.start), __range_s: String(Math.round(state.end - state.start)),
    __interval: span(seconds), __rate_interval: span(Math.max(seconds + state.scrape, 4 * state.scrape)),
  };
  return text.replace(/\$\{?(\w+)\}?/g, (whole, name) => scoped[name] ?? built[name] ?? state.values[name]?.regex ?? whole);
}

async function chooseValues(variables) {
  for (const variable of variables.filter((one) => one.type === "query")) {
    const [, series, label] = /^label_values\((.*), (\w+)\)$/.exec(variable.query.query);
    const asked = {"match[]": filled(series, {}, state.scrape), start: state.start, end: state.end};
    const found = await ask(`/api/v1/label/${label}/values`, asked);
    const given = state.given[variable.name];
    const values = given ? [given] : found;
    const all = given ? pattern(given) : variable.allValue || `(${found.map(pattern).join("|")})`;
    state.values[variable.name] = {values, regex: all, shown: given || `All (${found.length})`, label: variable.label};
  }
}

async function series(panel, width, scoped) {
  const found = [];
  for (const target of panel.targets.filter((one) => !one.hide)) {
    const seconds = Math.max(state.scrape, (state.end - state.start) / width);
    const query = filled(target.expr, scoped, seconds);
    state.queries.push({panel: panel.title, query});
    const data = target.instant
      ? await ask("/api/v1/query", {query, time: state.end})
      : await ask("/api/v1/query_range", {query, start: state.start, end: state.end, step: seconds});
    const rows = data.resultType === "scalar" ? [{metric: {}, value: data.result}] : data.result;
    for (const one of rows) {
      const name = target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => one.metric[label] ?? "");
      const points = (one.values || [one.value]).map(([time, value]) => [time, Number(value)]);
      found.push({name, labels: one.metric, refId: target.refId, points: points.filter(([, value]) => isFinite(value)), seconds});
    }
  }
  return found.filter((one) => one.points.length);
}

// ---- values as text

function scaled(value, steps, decimals) {
  let [unit, size] = [steps[0][0], steps[0][1]];
  for (const [name, least] of steps) if (Math.abs(value) >= least) [unit, size] = [name, least];
  return `${digits(value / size, decimals)} ${unit}`;
}

function digits(value, decimals) {
  if (decimals !== undefined && decimals !== null) return value.toFixed(decimals);
  if (value === 0) return "0";
  const size = Math.abs(value);
  return String(Number(size >= 100 ? value.toFixed(0) : size >= 1 ? value.toFixed(2) : value.toPrecision(3)));
}

const TIMES = [["ns", 1e-9], ["µs", 1e-6], ["ms", 1e-3], ["s", 1], ["min", 60], ["hours", 3600], ["days", 86400], ["weeks", 604800]];
const BYTES = [["B", 1], ["KiB", 1024], ["MiB", 1024 ** 2], ["GiB", 1024 ** 3], ["TiB", 1024 ** 4]];
const RATES = [["B/s", 1], ["kB/s", 1e3], ["MB/s", 1e6], ["GB/s", 1e9]];

function text(value, defaults) {
  const {unit, decimals} = defaults;
  for (const mapping of defaults.mappings || []) {
    if (mapping.options[value]) return mapping.options[value].text;
  }
  if (unit === "percentunit") return `${digits(value * 100, decimals ?? (Math.abs(value) < 0.1 ? 2 : 1))}%`;
  if (unit === "percent") return `${digits(value, decimals ?? 1)}%`;
  if (unit === "s") return value === 0 ? "0 s" : scaled(value, TIMES, decimals);
  if (unit === "ms") return value === 0 ? "0 ms" : scaled(value / 1000, TIMES, decimals);
  if (unit === "bytes") return scaled(value, BYTES, decimals);
  if (unit === "Bps") return scaled(value, RATES, decimals);
  if (unit === "reqps") return `${digits(value, decimals)} req/s`;
  if (unit === "none" || unit === "short" || !unit) return digits(value, decimals);
  return `${digits(value, decimals)} ${unit}`;
}

function valueColor(value, defaults) {
  for (const mapping of defaults.mappings || []) {
    if (mapping.options[value]) return color(mapping.options[value].color);
  }
  if (defaults.color.mode === "fixed") return color(defaults.color.fixedColor);
  let found = "#ccccdc";
  for (const step of defaults.thresholds.steps) if (step.value === null || value >= step.value) found = color(step.color);
  return found;
}

const CALCS = {
  lastNotNull: ["Last *", (values) => values.at(-1)], mean: ["Mean", (values) => values.reduce((a, b) => a + b, 0) / values.length],
  max: ["Max", (values) => Math.max(...values)], min: ["Min", (values) => Math.min(...values)],
};

const last = (one) => one.points.at(-1)[1];

function look(one, index, panel) {
  const found = {color: PALETTE[index % PALETTE.length], isDashed: false, fill: panel.fieldConfig.defaults.custom?.fillOpacity ?? 0,
    isStacked: panel.fieldConfig.defaults.custom?.stacking?.mode === "normal"};
  for (const override of panel.fieldConfig.overrides) {
    const matched = override.matcher.id === "byRegexp"
      ? new RegExp(override.matcher.options.slice(1, -1)).test(one.name) : override.matcher.options === one.name;
    if (!matched) continue;
    for (const {id, value} of override.properties) {
      if (id === "color") found.color = color(value.fixedColor);
      if (id === "custom.lineStyle") found.isDashed = value.fill === "dash";
      if (id === "custom.fillOpacity") found.fill = value;
      if (id === "custom.stacking") found.isStacked = value.mode === "normal";
    }
  }
  return found;
}

// ---- panels

function ticks(low, high, count, unit) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const times = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 1209600];
  const nice = unit === "s" && rough > 1 ? times : [1, 2, 2.5, 5, 10].map((one) => one * power);
  const step = nice.find((one) => one >= rough) || nice.at(-1);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high; value += step) found.push(Math.abs(value) < step / 1e6 ? 0 : Number(value.toPrecision(6)));
  return found;
}

function axisText(value, low, high, defaults) {
  const share = defaults.unit === "percentunit" ? 100 : 1;
  const decimals = share === 100 ? Math.max(0, Math.min(4, Math.ceil(1 - Math.log10((high - low) * share / 4)))) : undefined;
  return text(value, {...defaults, decimals});
}

function stackUp(lines) {
  const base = new Map();
  for (const one of lines) {
    one.low = one.points.map(([time]) => (one.look.isStacked ? base.get(time) ?? 0 : 0));
    one.high = one.points.map(([, value], index) => value + one.low[index]);
    if (one.look.isStacked) one.points.forEach(([time], index) => base.set(time, one.high[index]));
  }
}

function axisRange(lines, defaults) {
  const values = lines.flatMap((one) => one.high);
  let low = defaults.min ?? Math.min(...values), high = defaults.max ?? Math.max(...values);
  for (const step of defaults.custom.thresholdsStyle.mode === "off" ? [] : defaults.thresholds.steps) {
    if (step.value !== null) high = Math.max(high, step.value);
  }
  if (high <= low) high = low + (Math.abs(low) || 1);
  return [low, defaults.max ?? high + (high - low) * 0.04];
}

function timeSeries(panel, found, width, height) {
  const defaults = panel.fieldConfig.defaults;
  const lines = found.map((one, index) => ({...one, look: look(one, index, panel)}));
  stackUp(lines);
  const [low, high] = axisRange(lines, defaults);
  const isBeside = panel.options.legend.placement === "right", besides = isBeside ? Math.min(300, width * 0.42) : 0;
  const below = isBeside ? 0 : Math.min(height * 0.42, (1 + lines.length) * 15 + 4);
  const labels = ticks(low, high, Math.max(2, (height - below - 26) / 36), defaults.unit).map((value) => axisText(value, low, high, defaults));
  const plot = {left: 12 + 6.2 * Math.max(...labels.map((one) => one.length)), top: 6, right: width - 8 - besides, bottom: height - below - 20};
  const x = (time) => plot.left + (time - state.start) / (state.end - state.start) * (plot.right - plot.left);
  const y = (value) => plot.bottom - (value - low) / (high - low) * (plot.bottom - plot.top);
  const parts = axes(defaults, low, high, plot, x, y);
  for (const one of lines) parts.push(...drawn(one, x, y, low));
  const style = isBeside ? `style="float:right;max-height:${height}px;width:${besides - 6}px"` : "";
  const legend = `<div class="legend" ${style}>${legendTable(panel, lines)}</div>`;
  const picture = `<svg width="${width - besides}" height="${plot.bottom + 20}">${parts.join("")}</svg>`;
  return isBeside ? legend + picture : picture + legend;
}

function axes(defaults, low, high, plot, x, y) {
  const parts = [];
  for (const value of ticks(low, high, Math.max(2, (plot.bottom - plot.top) / 36), defaults.unit)) {
    parts.push(`<line x1="${plot.left}" x2="${plot.right}" y1="${y(value)}" y2="${y(value)}" stroke="#26292f"/>`);
    parts.push(`<text x="${plot.left - 6}" y="${y(value) + 4}" text-anchor="end">${escaped(axisText(value, low, high, defaults))}</text>`);
  }
  const minutes = [10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200].find((one) => (state.end - state.start) / one <= (plot.right - plot.left) / 70) || 86400;
  for (let time = Math.ceil(state.start / minutes) * minutes; time <= state.end; time += minutes) {
    const at = new Date(time * 1000).toISOString().slice(11, minutes < 60 ? 19 : 16);
    parts.push(`<line x1="${x(time)}" x2="${x(time)}" y1="${plot.top}" y2="${plot.bottom}" stroke="#202329"/>`);
    parts.push(`<text x="${x(time)}" y="${plot.bottom + 15}" text-anchor="middle">${at}</text>`);
  }
  return parts;
}

function drawn(one, x, y, floor) {
  const pieces = [];
  one.points.forEach(([time], index) => {
    const isNew = index === 0 || time - one.points[index - 1][0] > 1.5 * one.seconds;
    if (isNew) pieces.push([]);
    pieces.at(-1).push(index);
  });
  return pieces.map((piece) => {
    const up = piece.map((index) => `${x(one.points[index][0]).toFixed(1)},${y(one.high[index]).toFixed(1)}`);
    const down = piece.map((index) => `${x(one.points[index][0]).toFixed(1)},${y(Math.max(one.low[index], floor)).toFixed(1)}`).reverse();
    const dash = one.look.isDashed ? ' stroke-dasharray="8 6"' : "";
    const area = one.look.fill ? `<polygon points="${[...up, ...down].join(" ")}" fill="${one.look.color}" fill-opacity="${one.look.fill / 100}"/>` : "";
    const dot = piece.length === 1 ? `<circle cx="${up[0].split(",")[0]}" cy="${up[0].split(",")[1]}" r="2.5" fill="${one.look.color}"/>` : "";
    return `${area}<polyline points="${up.join(" ")}" fill="none" stroke="${one.look.color}" stroke-width="2"${dash}/>${dot}`;
  });
}

function legendTable(panel, lines) {
  const calcs = panel.options.legend.calcs, defaults = panel.fieldConfig.defaults;
  const head = calcs.map((one) => `<th class="number">${CALCS[one][0]}</th>`).join("");
  const rows = lines.map((one) => {
    const values = one.points.map(([, value]) => value);
    const cells = calcs.map((calc) => `<td class="number">${escaped(text(CALCS[calc][1](values), defaults))}</td>`).join("");
    return `<tr><td><i style="background:${one.look.color}"></i>${escaped(one.name)}</td>${cells}</tr>`;
  });
  return `<table><tr><th>Name</th>${head}</tr>${rows.join("")}</table>`;
}

function stats(panel, found, width, height) {
  const defaults = panel.fieldConfig.defaults, isNamed = panel.options.textMode === "value_and_name" && found.length > 0;
  const shown = found.map((one) => {
    const value = CALCS[panel.options.reduceOptions.calcs[0]][1](one.points.map(([, each]) => each));
    return {one, said: text(value, defaults), shade: valueColor(value, defaults)};
  });
  const longest = Math.max(...shown.map(({said}) => said.length));
  const size = Math.max(13, Math.min(40, height * 0.5, (width / shown.length - 12) / (longest * 0.56)));
  const parts = shown.map(({one, said, shade}) => `<div class="stat"><b style="color:${shade};font-size:${size}px">${escaped(said)}</b>`
    + `${isNamed ? `<div>${escaped(one.name)}</div>` : ""}</div>`);
  const course = panel.options.graphMode === "area" && shown.length === 1 ? sparkline(shown[0], width, height) : "";
  return `<div class="stats">${course}${parts.join("")}</div>`;
}

function sparkline({one, shade}, width, height) {
  const values = one.points.map(([, value]) => value), low = Math.min(...values, 0), high = Math.max(...values) || 1;
  const at = one.points.map(([time, value]) => [(time - state.start) / (state.end - state.start) * width, height - (value - low) / (high - low || 1) * height * 0.6]);
  if (at.length < 2) return "";
  const line = at.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  const area = `${at[0][0]},${height} ${line} ${at.at(-1)[0]},${height}`;
  return `<svg width="${width}" height="${height}" style="left:0;position:absolute;top:0"><polygon points="${area}" fill="${shade}" fill-opacity="0.15"/>`
    + `<polyline points="${line}" fill="none" stroke="${shade}" stroke-opacity="0.7"/></svg>`;
}

function barGauge(panel, found) {
  const defaults = panel.fieldConfig.defaults, most = defaults.max ?? Math.max(...found.map(last), 1e-12);
  const parts = found.map((one, index) => {
    const value = last(one), share = Math.max(0, Math.min(1, value / most)) * 100;
    const shade = defaults.color.mode === "palette-classic" ? PALETTE[index % PALETTE.length] : valueColor(value, defaults);
    return `<div class="bar"><div class="name">${escaped(one.name)}</div><div class="track"><div style="background:${shade};width:${share}%"></div></div>`
      + `<div class="value" style="color:${shade}">${escaped(text(value, defaults))}</div></div>`;
  });
  return `<div class="bars">${parts.join("")}</div>`;
}

function tableOf(panel, found) {
  const organize = panel.transformations.find((one) => one.id === "organize").options;
  const isMerged = panel.transformations.some((one) => one.id === "merge");
  const rows = new Map();
  found.forEach((one, index) => {
    const key = isMerged ? JSON.stringify(Object.entries(one.labels).sort()) : index;
    const row = rows.get(key) || {...one.labels};
    row[panel.targets.length > 1 ? `Value #${one.refId}` : "Value"] = last(one);
    rows.set(key, row);
  });
  const names = Object.keys(organize.renameByName).sort((a, b) => organize.indexByName[a] - organize.indexByName[b]);
  let shown = [...rows.values()].filter((row) => names.some((name) => row[name] !== undefined));
  const sort = panel.options.sortBy[0]?.displayName, key = names.find((name) => organize.renameByName[name] === sort);
  if (key) shown = shown.sort((a, b) => (b[key] ?? -Infinity) - (a[key] ?? -Infinity));
  const isNumber = (name) => name.startsWith("Value");
  const head = names.map((name) => `<th class="${isNumber(name) ? "number" : ""}">${escaped(organize.renameByName[name])}</th>`).join("");
  const body = shown.map((row) => `<tr>${names.map((name) => cell(panel, organize.renameByName[name], row[name])).join("")}</tr>`).join("");
  return `<table><tr>${head}</tr>${body}</table>`;
}

function cell(panel, name, value) {
  if (typeof value !== "number") return `<td>${escaped(value ?? "")}</td>`;
  const override = panel.fieldConfig.overrides.find((one) => one.matcher.options === name);
  const own = Object.fromEntries((override?.properties || []).map(({id, value: set}) => [id, set]));
  const defaults = {...panel.fieldConfig.defaults, ...own};
  const shade = (defaults.mappings || []).some((one) => one.options[value]) ? valueColor(value, defaults) : "inherit";
  return `<td class="number" style="color:${shade}">${escaped(text(value, defaults))}</td>`;
}

const KINDS = {timeseries: timeSeries, stat: stats, bargauge: barGauge, table: tableOf};

// ---- the page

function copies(panel) {
  const values = panel.repeat ? state.values[panel.repeat].values : [];
  if (!panel.repeat || !values.length) return [{panel, scoped: {}, place: panel.gridPos}];
  const width = 24 / Math.min(values.length, 4), {y, h} = panel.gridPos;
  return values.map((value, index) => {
    const across = Math.floor(24 / width);
    const place = {x: (index % across) * width, y: y + Math.floor(index / across) * h, w: width, h};
    return {panel, scoped: {[panel.repeat]: value}, place};
  });
}

function placed(panels) {
  let shift = 0;
  return panels.flatMap((panel) => {
    const made = copies({...panel, gridPos: {...panel.gridPos, y: panel.gridPos.y + shift}});
    shift += Math.max(...made.map((one) => one.place.y)) - panel.gridPos.y - shift;
    return made;
  });
}

async function drawPanel({panel, scoped, place}) {
  const box = document.createElement("div"), pixels = (cells) => cells * (CELL.height + CELL.gap) - CELL.gap;
  const width = place.w * CELL.width - CELL.gap, height = pixels(place.h);
  box.className = `panel ${panel.type}`;
  box.style.cssText = `left:${place.x * CELL.width}px;top:${place.y * (CELL.height + CELL.gap)}px;width:${width}px;height:${height}px`;
  const title = filled(panel.title, scoped, 1);
  document.querySelector("#grid").append(box);
  if (panel.type === "row") return void (box.textContent = title);
  box.innerHTML = `<h2 title="${escaped(panel.description)}">${escaped(title)}</h2><div class="body"></div>`;
  const body = box.querySelector(".body"), inner = [width - 18, height - 40];
  try {
    const found = await series(panel, inner[0], scoped);
    body.innerHTML = found.length ? KINDS[panel.type](panel, found, ...inner) : '<div class="empty">No data</div>';
    box.dataset.state = found.length ? "data" : "empty";
  } catch (error) {
    body.innerHTML = `<div class="error">${escaped(error.message)}</div>`;
    box.dataset.state = "error";
  }
  box.dataset.title = title;
}

let state = {};

// Draw `dashboard` from start to end (seconds); given: chosen values of variables, by name. Answers what each panel shows.
async function draw(dashboard, {prometheus, start, end, scrape, given}) {
  state = {prometheus, start, end, scrape, given, values: {}, queries: []};
  document.querySelector("#grid").innerHTML = "";
  await chooseValues(dashboard.templating.list);
  document.querySelector("h1").textContent = dashboard.title;
  const at = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
  document.querySelector(".about").textContent = `${dashboard.description} ${at(start)} to ${at(end)} UTC`;
  document.querySelector(".variables").innerHTML = Object.values(state.values)
    .map((one) => `<span><b>${escaped(one.label)}</b> ${escaped(one.shown)}</span>`).join("");
  const panels = placed(dashboard.panels);
  const bottom = Math.max(...panels.map(({place}) => place.y + place.h));
  document.querySelector("#grid").style.height = `${bottom * (CELL.height + CELL.gap)}px`;
  document.querySelector("#grid").style.width = `${24 * CELL.width}px`;
  await Promise.all(panels.map(drawPanel));
  return [...document.querySelectorAll(".panel[data-state]")].map((box) => ({title: box.dataset.title, state: box.dataset.state}));
}
