// The panel of one tile: what was seen, what the detector made of it, where they differ, and where its score lies.

import { get, pathOf } from "./api.js";
import { announce, element } from "./elements.js";
import { strip } from "./strip.js";
import { number, percent } from "./words.js";

const PICTURES = {
  query: "Tile", reconstruction: "Reconstruction", residual: "Difference (dark: more)", outline: "Where it differs most",
};

/** What the endpoint says of the tile at a place, one entry a bundle; no entry where no tile lies. */
export async function tilesAt({ screening, slideId, image }, x, y, signal) {
  if (x < 0 || y < 0 || x >= image.width || y >= image.height) return [];
  return await get(pathOf(screening, slideId, "/at", { x: Math.floor(x), y: Math.floor(y) }), { signal });
}

/** Scores of all tiles of a slide that have one. */
export async function scoresOf({ screening, slideId, bundle }, signal) {
  const columns = await get(pathOf(screening, slideId, "/scores", { bundle }), { signal });
  return (columns.score ?? []).filter((score) => score !== null);
}

/** Fill the panel: `tiles` as pairs of a bundle of its screening and what is said of the tile. */
export function showTile(panel, entries) {
  panel.replaceChildren(element("h2", {}, "Tile"), ...entries.map(entry));
  const [first] = entries;
  announce(first?.tile ? `Tile at ${first.tile.x}, ${first.tile.y}: ${outcome(first.tile)}` : "No tile here.");
}

/** Say in the panel that something else is there than a tile. */
export function showInstead(panel, text) {
  panel.replaceChildren(element("h2", {}, "Tile"), element("p", { class: "soft" }, text));
}

function entry({ bundle, tile, scores, title }) {
  const heading = title ? element("h3", {}, title) : "";
  if (!tile) return element("div", {}, heading, element("p", { class: "soft" }, "No tile was cut here: too little tissue."));
  return element("div", { class: "tile-entry" }, heading, element("div", { class: "tile-pictures" }, pictures(tile)),
    tile.why ? element("p", { class: "soft" }, `No pictures: ${tile.why}.`) : "",
    element("p", { class: "tile-score" }, element("b", { class: "number" }, outcome(tile)),
      element("span", { class: "soft number" }, ` x ${tile.x}  y ${tile.y}`)),
    tile.score === null ? "" : placeAmong(bundle, tile, scores));
}

function pictures(tile) {
  return Object.entries(PICTURES).filter(([kind]) => isPicture(tile[kind])).map(([kind, words]) => element("figure", {},
    element("img", { src: tile[kind], alt: `${words} at ${tile.x}, ${tile.y}` }), element("figcaption", {}, words)));
}

/** Pictures come within the answer: an address to elsewhere would be none. */
function isPicture(address) {
  return /^data:image\/(png|jpeg);base64,/.test(address ?? "");
}

function outcome(tile) {
  if (tile.error) return `could not be read: ${tile.error}`;
  if (tile.flag) return `left out: ${tile.flag.replaceAll("_", " ")}`;
  return `score ${number(tile.score)}`;
}

function placeAmong({ calibration }, tile, scores) {
  const lines = [
    tile.normal_share === null || tile.normal_share === undefined ? "How tiles of normal slides score is not known for this bundle."
      : `${percent(tile.normal_share)} of the tiles of normal slides score less.`,
    tile.above === null || tile.above === undefined ? "" : `${percent(tile.above)} of this slide's tiles score less.`,
  ];
  return element("div", {},
    strip({ score: tile.score, quantiles: quantilesOf(calibration), scores: scores ?? [], threshold: calibration?.tile_p99 ?? null }),
    element("p", { class: "keys" }, element("span", { class: "key-here" }, "this tile"),
      Number.isFinite(calibration?.tile_p99) ? element("span", { class: "key-limit" }, `${number(calibration.tile_p99)}: 99 % of normal tiles score less`) : ""),
    element("p", {}, lines.filter(Boolean).join(" ")));
}

function quantilesOf(calibration) {
  const quantiles = calibration?.tile_quantiles;
  return Array.isArray(quantiles) && quantiles.length > 1 ? quantiles : null;
}
