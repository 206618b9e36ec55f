// The tiles of a slide: those that are marked, stepped through, and the one that is chosen.

import { get, pathOf, sentence } from "./api.js";
import { announce, byId, element } from "./elements.js";
import { applyLayers } from "./layers.js";
import { box, outlines } from "./overlay.js";
import { goTo, placeOfView } from "./scope.js";
import { scoresOf, showInstead, showTile, tilesAt } from "./tile_panel.js";
import { number, opened } from "./words.js";

/** On the screen a marked tile that is gone to has at least this side. */
const TILE_PX = 160;

/** Add what is drawn over the panes: marked tiles at once, outlines when they have come. */
export async function addShapes(view) {
  for (const scope of view.scopes) scope.marks = marksOf(scope);
  listMarks(view);
  drawShapes(view);
  view.outlines = await outlinesOf(view);
  if (view.stop.signal.aborted) return;
  for (const name of ["masks", "regions"]) byId("layers").elements[name].parentElement.hidden = !view.outlines.some((shape) => shape.layer === name);
  drawShapes(view);
  applyLayers(view);
}

async function outlinesOf({ screening, slideId, answer, stop }) {
  if (!answer.masks) return [];
  try {
    return outlines(await get(pathOf(screening, slideId, "/layers"), { signal: stop.signal }));
  } catch (error) {
    if (error.name !== "AbortError") announce(`No outlines: ${sentence(error)}`);
    return [];
  }
}

/** The tiles that a pane's bundle finds most abnormal, the most abnormal first. */
function marksOf({ about, record }) {
  const side = about.tile_um && record.mpp_level0 ? about.tile_um / record.mpp_level0 : about.tile_px ?? 256;
  return opened(record.evidence, []).map((tile, i) => ({
    ...box({ x: tile.x_level0_px, y: tile.y_level0_px, width: side, height: side }, "mark", "marks", String(i + 1)), score: tile.score,
  }));
}

function drawShapes(view) {
  for (const scope of view.scopes) {
    scope.shapes = [...view.outlines, ...scope.marks.toReversed(), ...(view.chosen ? [view.chosen] : [])];
    scope.redraw();
  }
}

function listMarks(view) {
  const { marks } = view.scopes[0];
  const button = (tile, i) => element("li", {}, element("button", {
    type: "button", "aria-label": `Marked tile ${tile.label}, score ${number(tile.score)}`, onclick: () => toMark(view, i),
  }, element("b", {}, tile.label), ` ${number(tile.score)}`));
  byId("marked").replaceChildren(...(marks.length ? [element("h2", {}, "Most abnormal tiles"), element("ol", { class: "marks" }, marks.map(button))] : []));
}

/** Go to the marked tile so many places on. */
export function nextMark(view, by) {
  const n = view?.scopes[0]?.marks?.length ?? 0;
  if (!n) return announce("No tile is marked.");
  toMark(view, view.at < 0 ? (by > 0 ? 0 : n - 1) : (view.at + by + n) % n);
}

function toMark(view, i) {
  const [scope] = view.scopes;
  const { x, y, width, height } = scope.marks[i];
  Object.assign(view, { leader: scope, at: i });
  byId("marked").querySelectorAll("button").forEach((button, j) => button.setAttribute("aria-current", String(i === j)));
  const middle = { x: x + width / 2, y: y + height / 2 };
  goTo(scope, { ...middle, zoom: Math.min(placeOfView(scope).zoom, width / TILE_PX) });
  choose(view, middle.x, middle.y);
}

/** Show the tile at a place, of each pane's bundle. */
export async function choose(view, x, y) {
  view.asked?.abort();
  view.asked = new AbortController();
  const { signal } = view.asked;
  const late = setTimeout(() => showInstead(byId("tile"), "Looking at the tile …"), 300);
  try {
    const entries = await Promise.all(view.scopes.map((scope) => entryOf(view, scope, x, y, signal)));
    clearTimeout(late);
    if (view.stop.signal.aborted || signal.aborted) return;
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
