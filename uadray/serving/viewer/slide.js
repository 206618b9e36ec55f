// One slide: its picture with the layers over it, perhaps that of another bundle beside it, and what is known of it.

import { get, pathOf, picture, sentence } from "./api.js";
import * as address from "./address.js";
import { announce, byId, element } from "./elements.js";
import { detailsOf, factsOf } from "./facts.js";
import { legendOf } from "./legend.js";
import { flagTag, noteForm } from "./notes.js";
import { lazyPicture } from "./pictures.js";
import { box, outlines } from "./overlay.js";
import { neighbour, placeOf, queue } from "./queue.js";
import { follow, goTo, layHeat, move, openScope, placeOfView, showHeat, showWhole, zoomBy } from "./scope.js";
import { scoresOf, showInstead, showTile, tilesAt } from "./tile_panel.js";
import { badge, groupOf, number, opened, thousands } from "./words.js";

const LAYERS = ["heat", "masks", "regions", "marks"];
const SHOWN = "heat marks";
const OPACITY = 80;
let shown = null;
let handlers = null;

/** Set the view up once. `goes(slideId)` goes to another slide, `leaves()` to the gallery; `fails(error)`; `noted(id, note)`. */
export function prepare(given) {
  handlers = given;
  byId("layers").addEventListener("input", layersChanged);
  byId("layers").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("beforeunload", (event) => shown?.note?.isChanged() && event.preventDefault());
  byId("beside").addEventListener("change", () => {
    address.write({ beside: byId("beside").value });
    openAgain();
  });
}

/** Show a slide. `screenings` are those that another bundle may be chosen from. */
export async function show({ screenings, screening, bundle, slideId }) {
  close();
  const view = { screenings, screening, bundle, slideId, scopes: [], marks: [], at: -1, stop: new AbortController() };
  shown = view;
  byId("slide-title").textContent = slideId;
  byId("slide-badge").replaceChildren();
  byId("slide-flag").replaceChildren();
  for (const id of ["facts", "marked", "tile", "review", "details"]) byId(id).replaceChildren();
  byId("panes").replaceChildren(element("p", { class: "empty" }, "Opening the slide …"));
  showPlace();
  const answer = await get(pathOf(screening, slideId), { signal: view.stop.signal });
  if (shown !== view) return;
  view.answer = answer;
  view.record = recordOf(answer, bundle);
  showPanel(view);
  await openPanes(view);
}

/** Leave the slide: nothing of it goes on. */
export function close() {
  if (!shown) return;
  if (shown.note?.isChanged()) shown.note.save();
  shown.stop.abort();
  clearTimeout(shown.timer);
  for (const scope of shown.scopes) scope.close();
  shown = null;
}

/** What keys do here. */
export function keys() {
  const view = shown;
  const scoped = (act) => () => view?.leader && act(view.leader);
  const box_ = (name) => () => byId("layers").elements[name].click();
  return {
    j: () => step(1), k: () => step(-1), g: leave, Escape: leave,
    f: () => view?.note?.cycle(), n: () => view?.note?.focus(),
    h: box_("heat"), m: toggleOutlines, "[": () => stronger(-10), "]": () => stronger(10),
    t: () => nextMark(1), T: () => nextMark(-1), b: nextBeside,
    ArrowUp: scoped((s) => move(s, 0, -0.2)), ArrowDown: scoped((s) => move(s, 0, 0.2)),
    ArrowLeft: scoped((s) => move(s, -0.2, 0)), ArrowRight: scoped((s) => move(s, 0.2, 0)),
    "+": scoped((s) => zoomBy(s, 1.5)), "=": scoped((s) => zoomBy(s, 1.5)), "-": scoped((s) => zoomBy(s, 1 / 1.5)), 0: scoped(showWhole),
    Enter: scoped((s) => { const { x, y } = placeOfView(s); choose(x, y); }),
  };
}

/** What the address says of the slide's place, after Back or a pasted address. */
export function restorePlace() {
  if (!shown?.scopes.length) return;
  [shown.leader] = shown.scopes;
  showLayers();
  goToAddress(shown.scopes[0]);
}

function recordOf(answer, bundle) {
  return answer.decisions.find((record) => (record.bundle ?? "") === bundle.folder) ?? answer.decisions[0];
}

/** Whether the note is written down; a slide is not left while it is not. */
async function isNoted() {
  const isDone = !shown?.note?.isChanged() || await shown.note.save();
  if (!isDone) byId("review").scrollIntoView({ block: "nearest" });
  return isDone;
}

async function leave() {
  if (await isNoted()) handlers.leaves();
}

async function step(by) {
  try {
    if (!await isNoted()) return;
    const next = await neighbour(shown.slideId, by);
    if (next) handlers.goes(next.slide_id);
    else announce(by > 0 ? "This is the last slide." : "This is the first slide.");
  } catch (error) {
    handlers.fails(error);
  }
}

/** Tell where in the queue the slide is; again once the queue has come. */
export function showPlace() {
  const place = shown ? placeOf(shown.slideId) : -1;
  byId("place").textContent = place < 0 ? "" : `${thousands(place + 1)} of ${thousands(queue.total)}`;
  for (const button of byId("place").parentElement.querySelectorAll("button")) button.disabled = place < 0;
}

function showPanel(view) {
  const { record, bundle } = view;
  byId("slide-badge").replaceChildren(badge(groupOf(record)));
  byId("facts").replaceChildren(element("h2", {}, "Decision"), ...factsOf(record));
  byId("details").replaceChildren(element("h2", {}, "Details"), detailsOf(record, bundle));
  showNote(view);
  fillBeside(view);
}

function showNote(view) {
  const { answer, screening, slideId } = view;
  byId("slide-flag").replaceChildren(flagTag(answer.note));
  view.note = noteForm({
    screening, slideId, note: answer.note, etag: answer.note_etag,
    onSaved: (note) => {
      handlers.noted(slideId, note);
      if (shown === view) byId("slide-flag").replaceChildren(flagTag(note));
    },
  });
  byId("review").replaceChildren(element("h2", {}, "Review"), view.note.element);
}

function fillBeside(view) {
  const others = view.screenings.flatMap((screening) => screening.bundles.map((bundle) => ({ screening, bundle })))
    .filter(({ screening, bundle }) => screening.screening !== view.screening || bundle.folder !== view.bundle.folder);
  const select = byId("beside");
  select.replaceChildren(element("option", { value: "" }, "nothing"), ...others.map(({ screening, bundle }) =>
    element("option", { value: `${screening.screening}/${bundle.folder}` }, `${bundle.name} (${screening.screening})`)));
  select.value = address.read().beside ?? "";
  if (select.selectedIndex < 0) select.value = "";
  select.parentElement.hidden = others.length === 0;
}

function besideOf(view) {
  const [name, ...folder] = (byId("beside").value || "").split("/");
  const screening = view.screenings.find((one) => one.screening === name);
  const bundle = screening?.bundles.find((one) => one.folder === folder.join("/"));
  return bundle ? { screening: name, bundle } : null;
}

function nextBeside() {
  const select = byId("beside");
  if (select.options.length < 2) return announce("There is no other bundle.");
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change"));
}

function openAgain() {
  for (const scope of shown.scopes) scope.close();
  Object.assign(shown, { scopes: [] });
  openPanes(shown).catch(handlers.fails);
}

async function openPanes(view) {
  const { answer } = view;
  const why = answer.image ? await whyClosed(view) : "";
  if (shown !== view) return;
  byId("panes").replaceChildren();
  byId("layers").hidden = byId("legend").hidden = !answer.image || why !== null;
  if (!answer.image || why !== null) return showKept(view, why);
  const panes = [{ screening: view.screening, bundle: view.bundle, record: view.record, image: answer.image, version: answer.version }];
  const other = besideOf(view);
  if (other) panes.push(await paneBeside(view, other));
  if (shown !== view) return;
  byId("panes").classList.toggle("two", panes.length > 1);
  for (const pane of panes) view.scopes.push(openPane(view, pane, panes.length > 1));
  [view.leader] = view.scopes;
  prepareLayers(view);
  await addShapes(view);
}

/** Why the slide's file cannot be opened now, or null: its coarsest tile is asked for, which the picture needs anyway. */
async function whyClosed({ screening, slideId, answer: { image }, stop }) {
  try {
    await picture(pathOf(screening, slideId, `/image/${image.min_level}/0_0`, { v: image.version }), { signal: stop.signal });
    return null;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return sentence(error);
  }
}

/** What is left to see of a slide that cannot be opened: the picture that the screening kept. */
function showKept(view, why) {
  const { screening, slideId, bundle, answer } = view;
  const hasFailed = groupOf(view.record) === "failed";
  byId("panes").classList.remove("two");
  byId("panes").replaceChildren(element("div", { class: "empty" },
    element("p", {}, element("b", {}, hasFailed ? "This slide failed, so there is no picture of it." : "The slide's file cannot be opened now."), why ? ` ${why}` : ""),
    hasFailed ? "" : element("p", {}, "What was decided stays. Once the file is back in its place, it can be looked at again."),
    view.record.n_scored ? lazyPicture(pathOf(screening, slideId, "/heatmap", { bundle: bundle.folder, v: answer.version }), "The heatmap that was kept") : ""));
}

async function paneBeside(view, { screening, bundle }) {
  if (screening === view.screening) return { screening, bundle, record: recordOf(view.answer, bundle), image: view.answer.image, version: view.answer.version };
  const answer = await get(pathOf(screening, view.slideId), { signal: view.stop.signal });
  return { screening, bundle, record: recordOf(answer, bundle), image: answer.image ?? view.answer.image, version: answer.version };
}

function openPane(view, { screening, bundle, record, image, version }, isOneOfTwo) {
  const title = isOneOfTwo ? `${bundle.name} (${screening}): ${describe(record)}` : `Slide ${view.slideId}`;
  const scope = openScope(byId("panes"), {
    screening, slideId: view.slideId, bundle: bundle.folder, image, version, title, onClick: choose, onTrouble: said,
    onMove: (moved) => moves(view, moved), onTouch: (touched) => { view.leader = touched; },
  });
  scope.calibration = bundle.calibration ?? {};
  scope.about = bundle;
  scope.viewer.addOnceHandler("open", () => {
    goToAddress(scope);
    if (groupOf(record) === "anomalous" || groupOf(record) === "normal") layHeat(scope, { threshold: thresholdOf(scope) });
    applyLayers();
  });
  return scope;
}

function describe(record) {
  return record.score === null || record.score === undefined ? groupOf(record).replace("_", " ") : `${record.decision}, score ${number(record.score)}, p ${number(record.p_value)}`;
}

function goToAddress(scope) {
  const asked = address.read();
  const [x, y, zoom] = ["x", "y", "zoom"].map((name) => address.numberOf(asked[name]));
  if (x !== null && y !== null) goTo(scope, { x, y, zoom }, true);
}

/** The pane that leads moved: the other follows, and the address says where. */
function moves(view, moved) {
  if (view.leader !== moved) return;
  for (const scope of view.scopes) if (scope !== moved && scope.viewer.isOpen()) follow(scope, moved);
  clearTimeout(view.timer);
  view.timer = setTimeout(() => {
    const { x, y, zoom } = placeOfView(moved);
    if (Number.isFinite(zoom)) address.write({ x: Math.round(x), y: Math.round(y), zoom: Number(zoom.toPrecision(4)) });
  }, 200);
}

function said(text) {
  const line = byId("panes").querySelector(".said-of-tiles");
  if (text === null) line?.remove();
  else if (!line) byId("panes").append(element("p", { class: "said-of-tiles", role: "alert" }, text));
}

// Layers

function prepareLayers(view) {
  const { record } = view;
  const best = opened(record.evidence, []).map((tile) => tile.score ?? -Infinity);
  const { tile_median: low, tile_high: high } = view.bundle.calibration ?? {};
  view.range = Number.isFinite(low) ? [low, Math.max(high, ...best)] : null;
  byId("layers").elements.threshold.parentElement.hidden = view.range === null;
  showLayers();
}

/** Bring the controls to what the address says. */
function showLayers() {
  const asked = address.read();
  const fields = byId("layers").elements;
  const layers = new Set((asked.layers ?? SHOWN).split(/[ ,+]/));
  for (const name of LAYERS) fields[name].checked = layers.has(name);
  fields.opacity.value = address.numberOf(asked.opacity) ?? OPACITY;
  const threshold = address.numberOf(asked.threshold);
  fields.threshold.value = threshold === null || !shown.range ? 0 : 100 * (threshold - shown.range[0]) / (shown.range[1] - shown.range[0]);
  applyLayers();
}

function layersChanged(event) {
  const fields = byId("layers").elements;
  const layers = LAYERS.filter((name) => fields[name].checked).join(" ");
  const threshold = thresholdShown();
  address.write({
    layers: layers === SHOWN ? "" : layers || "none", opacity: Number(fields.opacity.value) === OPACITY ? "" : fields.opacity.value,
    threshold: threshold === null ? "" : Number(threshold.toPrecision(5)),
  });
  applyLayers();
  if (event.target.name !== "threshold") return;
  clearTimeout(shown.heatTimer);
  shown.heatTimer = setTimeout(() => {
    for (const scope of shown?.scopes ?? []) if (scope.heat) layHeat(scope, { threshold: thresholdOf(scope) });
  }, 250);
}

function applyLayers() {
  const fields = byId("layers").elements;
  const layers = new Set(["chosen", ...LAYERS.filter((name) => fields[name].checked)]);
  fields.opacity.nextElementSibling.value = `${fields.opacity.value} %`;
  const threshold = thresholdShown();
  fields.threshold.nextElementSibling.value = threshold === null ? "all" : number(threshold);
  for (const scope of shown.scopes) {
    scope.layers = layers;
    showHeat(scope, layers.has("heat"), fields.opacity.value / 100);
    scope.redraw();
  }
  byId("legend").replaceChildren(...shown.scopes.flatMap((scope, i) => legendOf(scope.calibration, {
    threshold: thresholdOf(scope), layers: i ? new Set(layers.has("heat") ? ["heat"] : []) : layers, titles: shown.scopes.length > 1 ? scope.about.name : "", names: i ? new Map() : namesOf(shown),
  })));
}

/** The kinds of outlines that the slide has, for the legend. */
function namesOf({ outlines: drawn = [], marks }) {
  return new Map([...drawn.map(({ name, kind, layer }) => [name, { kind, layer }]), ...(marks.length ? [["marked tile", { kind: "mark", layer: "marks" }]] : [])]);
}

/** The least score that is shown, null for all: on the scale of the slide's own bundle. */
function thresholdShown() {
  const share = byId("layers").elements.threshold.value / 100;
  if (!shown.range || share <= 0) return null;
  return shown.range[0] + share * (shown.range[1] - shown.range[0]);
}

/** The same for another bundle, whose scores have another scale: as far from its median to its dark end. */
function thresholdOf(scope) {
  const threshold = thresholdShown();
  if (threshold === null || scope.about === shown.bundle) return threshold;
  const [from, to] = [shown.bundle.calibration, scope.calibration];
  if (!Number.isFinite(to.tile_median)) return null;
  return to.tile_median + (threshold - from.tile_median) / (from.tile_high - from.tile_median) * (to.tile_high - to.tile_median);
}

function stronger(by) {
  const { opacity, heat } = byId("layers").elements;
  if (!heat.checked) heat.click();
  opacity.value = Number(opacity.value) + by;
  opacity.dispatchEvent(new Event("input", { bubbles: true }));
  announce(`Heat ${opacity.value} %`);
}

function toggleOutlines() {
  const { masks, regions } = byId("layers").elements;
  const isOn = masks.checked || regions.checked;
  for (const field of [masks, regions]) if (field.checked === isOn) field.click();
}

// Tiles

async function addShapes(view) {
  const tiles = opened(view.record.evidence, []);
  const side = view.bundle.tile_um && view.record.mpp_level0 ? view.bundle.tile_um / view.record.mpp_level0 : view.bundle.tile_px ?? 256;
  view.marks = tiles.map((tile, i) => ({ x: tile.x_level0_px, y: tile.y_level0_px, width: side, height: side, score: tile.score, label: String(i + 1) }));
  view.scopes[0].marks = view.marks.map((tile) => box(tile, "mark", "marks", tile.label));
  listMarks(view);
  let drawn = [];
  try {
    drawn = outlines(await get(pathOf(view.screening, view.slideId, "/layers"), { signal: view.stop.signal }));
  } catch (error) {
    if (error.name === "AbortError") return;
    announce(`No outlines: ${sentence(error)}`);
  }
  if (shown !== view) return;
  view.outlines = drawn;
  for (const name of ["masks", "regions"]) byId("layers").elements[name].parentElement.hidden = !drawn.some((shape) => shape.layer === name);
  drawShapes(view);
  applyLayers();
}

function drawShapes(view) {
  const marks = view.scopes[0].marks ?? [];
  for (const scope of view.scopes) {
    scope.shapes = [...(view.outlines ?? []), ...(scope === view.scopes[0] ? [...marks].reverse() : []), ...(view.chosen ? [view.chosen] : [])];
    scope.redraw();
  }
}

function listMarks(view) {
  const button = (tile, i) => element("li", {}, element("button", { type: "button", "aria-label": `Marked tile ${tile.label}, score ${number(tile.score)}`, onclick: () => toMark(i) },
    element("b", {}, tile.label), ` ${number(tile.score)}`));
  byId("marked").replaceChildren(...(view.marks.length ? [element("h2", {}, "Most abnormal tiles"), element("ol", { class: "marks" }, view.marks.map(button))] : []));
}

function nextMark(by) {
  if (!shown?.marks.length) return announce("No tile is marked.");
  toMark(shown.at < 0 ? (by > 0 ? 0 : shown.marks.length - 1) : (shown.at + by + shown.marks.length) % shown.marks.length);
}

function toMark(i) {
  const tile = shown.marks[i];
  [shown.leader] = shown.scopes;
  shown.at = i;
  byId("marked").querySelectorAll("button").forEach((button, j) => button.setAttribute("aria-current", String(i === j)));
  const middle = { x: tile.x + tile.width / 2, y: tile.y + tile.height / 2 };
  const zoom = Math.min(placeOfView(shown.scopes[0]).zoom, tile.width / 160);
  goTo(shown.scopes[0], { ...middle, zoom });
  choose(middle.x, middle.y);
}

/** Show the tile at a place, of each pane's bundle. */
async function choose(x, y) {
  const view = shown;
  view.asked?.abort();
  view.asked = new AbortController();
  const { signal } = view.asked;
  const late = setTimeout(() => showInstead(byId("tile"), "Looking at the tile …"), 300);
  try {
    const entries = await Promise.all(view.scopes.map((scope) => entryOf(view, scope, x, y, signal)));
    clearTimeout(late);
    if (shown !== view || signal.aborted) return;
    const [{ tile }] = entries;
    view.chosen = tile ? box(tile, "chosen", "chosen") : null;
    showTile(byId("tile"), entries);
    if (window.innerWidth >= 900) byId("tile").scrollIntoView({ block: "nearest" });
    drawShapes(view);
  } catch (error) {
    clearTimeout(late);
    if (error.name !== "AbortError") showInstead(byId("tile"), `The tile cannot be shown. ${sentence(error)}`);
  }
}

async function entryOf(view, scope, x, y, signal) {
  const tiles = await tilesAt(scope, x, y, signal);
  const tile = tiles.find((one) => (one.bundle ?? "") === scope.bundle) ?? null;
  scope.scores ??= scoresOf(scope, view.stop.signal).catch(() => []);
  return { bundle: scope.about, tile, scores: tile ? await scope.scores : [], title: view.scopes.length > 1 ? scope.about.name : "" };
}
