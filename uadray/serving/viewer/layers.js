// The layers over the picture: which are shown, how strong the heat is, and from which score on. The address keeps it.

import * as address from "./address.js";
import { announce, byId } from "./elements.js";
import { legendOf } from "./legend.js";
import { layHeat, showHeat } from "./scope.js";
import { number, opened } from "./words.js";

const LAYERS = ["heat", "masks", "regions", "marks"];
const SHOWN = "heat marks";
const OPACITY = 80;

const fields = () => byId("layers").elements;

/** Set the controls up once; `current()` is the slide's view, or null. */
export function controls(current) {
  byId("layers").addEventListener("submit", (event) => event.preventDefault());
  byId("layers").addEventListener("input", (event) => current() && changed(current(), event.target.name));
}

/** Whether any tile of a pane's slide has a score. */
export function hasHeat({ record }) {
  return record.state !== "failed" && record.n_scored > 0;
}

/** Fit the controls to a slide: the threshold goes from the median of normal tiles to the slide's highest score. */
export function prepareLayers(view) {
  const best = opened(view.record.evidence, []).map((tile) => tile.score ?? -Infinity);
  const { tile_median: low, tile_high: high } = view.bundle.calibration ?? {};
  view.range = Number.isFinite(low) && high > low ? [low, Math.max(high, ...best)] : null;
  const isHot = view.scopes.some(hasHeat);
  for (const name of ["heat", "opacity"]) fields()[name].parentElement.hidden = !isHot;
  fields().threshold.parentElement.hidden = !isHot || view.range === null;
  fields().marks.parentElement.hidden = !opened(view.record.evidence, []).length;
  showLayers(view);
}

/** Bring the controls to what the address says. */
export function showLayers(view) {
  const asked = address.read();
  const layers = new Set((asked.layers ?? SHOWN).split(/[ ,+]/));
  for (const name of LAYERS) fields()[name].checked = layers.has(name);
  fields().opacity.value = address.numberOf(asked.opacity) ?? OPACITY;
  view.threshold = view.range ? address.numberOf(asked.threshold) : null;
  fields().threshold.value = view.threshold === null ? 0 : 100 * (view.threshold - view.range[0]) / (view.range[1] - view.range[0]);
  applyLayers(view);
}

function changed(view, name) {
  const layers = LAYERS.filter((layer) => fields()[layer].checked).join(" ");
  const opacity = Number(fields().opacity.value);
  if (name === "threshold") takeThreshold(view);
  address.write({
    layers: layers === SHOWN ? "" : layers || "none", opacity: opacity === OPACITY ? "" : opacity, threshold: view.threshold,
  });
  applyLayers(view);
}

function takeThreshold(view) {
  const [low, high] = view.range;
  const share = fields().threshold.value / 100;
  view.threshold = share > 0 ? Number((low + share * (high - low)).toPrecision(5)) : null;
  clearTimeout(view.heatTimer);
  view.heatTimer = setTimeout(() => {
    for (const scope of view.scopes) if (scope.heat) layHeat(scope, { threshold: thresholdOf(view, scope) });
  }, 250);
}

/** Show what the controls say, in every pane and in the legend. */
export function applyLayers(view) {
  const layers = new Set(["chosen", ...LAYERS.filter((name) => fields()[name].checked)]);
  const { opacity, threshold } = fields();
  opacity.nextElementSibling.value = `${opacity.value} %`;
  threshold.nextElementSibling.value = view.threshold === null ? "all" : number(view.threshold);
  for (const scope of view.scopes) {
    scope.layers = layers;
    showHeat(scope, layers.has("heat"), opacity.value / 100);
    scope.redraw();
  }
  byId("legend").hidden = !view.scopes.some(hasHeat) && !view.outlines.length;
  byId("legend").replaceChildren(...view.scopes.flatMap((scope, i) => legendOf(scope.calibration, {
    threshold: thresholdOf(view, scope), layers: layersOf(scope, i ? ["heat"] : LAYERS),
    title: view.scopes.length > 1 ? scope.about.name : "", names: i ? new Map() : namesOf(view),
  })));
}

/** Which of some layers a pane shows. */
function layersOf(scope, names) {
  return new Set(names.filter((name) => scope.layers.has(name) && (name !== "heat" || hasHeat(scope))));
}

/** The kinds of outlines that the slide has, for the legend. */
function namesOf({ outlines, scopes }) {
  const names = new Map(outlines.map(({ name, kind, layer }) => [name, { kind, layer }]));
  return scopes.some((scope) => scope.marks?.length) ? names.set("marked tile", { kind: "mark", layer: "marks" }) : names;
}

/** The threshold of a pane: another bundle's scores have another scale, and there it lies as far up as on the slide's. */
export function thresholdOf(view, scope) {
  if (view.threshold === null || scope.about === view.bundle) return view.threshold;
  const [from, to] = [view.bundle.calibration, scope.calibration];
  if (!Number.isFinite(to.tile_median)) return null;
  return to.tile_median + (view.threshold - from.tile_median) / (from.tile_high - from.tile_median) * (to.tile_high - to.tile_median);
}

/** Switch a layer on or off. */
export function switchLayer(name) {
  fields()[name].click();
}

/** Make the heat stronger by so many per cent, or weaker. */
export function stronger(by) {
  const { opacity, heat } = fields();
  if (!heat.checked) heat.click();
  opacity.value = Number(opacity.value) + by;
  opacity.dispatchEvent(new Event("input", { bubbles: true }));
  announce(`Heat ${opacity.value} %`);
}

/** Switch tissue and flagged regions on or off together. */
export function toggleOutlines() {
  const { masks, regions } = fields();
  const isOn = masks.checked || regions.checked;
  for (const field of [masks, regions]) if (field.checked === isOn) field.click();
}
