// Where a tile's score lies among the tiles of normal slides, and among the tiles of its own slide.

import { drawn, element } from "./elements.js";
import { number } from "./words.js";

const [WIDTH, HEIGHT, BINS] = [300, 26, 60];

/** Two strips, one above the other, with the score as a line through both and the calibration's 99 % as a dashed one. */
export function strip({ score, quantiles, scores, threshold }) {
  const [low, high] = rangeOf([score, ...scores, ...middleOf(quantiles ?? [])]);
  const place = (value) => Math.max(0, Math.min(WIDTH, WIDTH * (value - low) / (high - low)));
  const rows = [["Tiles of normal slides", quantiles ? sharesOfQuantiles(quantiles, low, high) : null], ["Tiles of this slide", shares(scores, low, high)]];
  const line = (value, attributes, bottom) => drawn("path", { d: `M${place(value)} 0V${bottom}`, ...attributes });
  return element("div", { class: "strips" }, rows.map(([words, bins]) => element("figure", {},
    element("figcaption", {}, words, bins ? "" : " (not known)"),
    drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      bins ? drawn("path", { d: outline(bins), class: "density" }) : "",
      Number.isFinite(threshold) ? line(threshold, { class: "limit" }, HEIGHT) : "", line(score, { class: "here" }, HEIGHT)))),
  element("p", { class: "ends" }, element("span", {}, number(low)), element("span", {}, number(high))));
}

/** Quantiles without the first and the last hundredth: a single odd tile of a normal slide would squeeze the rest. */
function middleOf(quantiles) {
  const cut = Math.ceil(quantiles.length / 100);
  return quantiles.slice(cut, quantiles.length - cut);
}

function rangeOf(values) {
  const [low, high] = values.filter(Number.isFinite).reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const margin = high > low ? 0.03 * (high - low) : 0.5;
  return [low - margin, high + margin];
}

function shares(values, low, high) {
  const bins = new Array(BINS).fill(0);
  for (const value of values) bins[Math.min(BINS - 1, Math.floor(BINS * (value - low) / (high - low)))] += 1 / values.length;
  return values.length ? bins : null;
}

/** Shares between the bins' edges, of evenly spaced quantiles: between two of them the distribution is taken as even. */
function sharesOfQuantiles(quantiles, low, high) {
  const below = (value) => {
    const next = quantiles.findIndex((quantile) => quantile > value);
    if (next === 0) return 0;
    if (next < 0) return 1;
    const [from, to] = [quantiles[next - 1], quantiles[next]];
    return (next - 1 + (value - from) / (to - from)) / (quantiles.length - 1);
  };
  const edges = Array.from({ length: BINS + 1 }, (_, bin) => below(low + (high - low) * bin / BINS));
  return edges.slice(1).map((edge, bin) => edge - edges[bin]);
}

/** Bins as one area, by the square root, so that rare high scores are seen. */
function outline(bins) {
  const most = Math.sqrt(Math.max(...bins)) || 1;
  const step = WIDTH / bins.length;
  const points = bins.map((bin, i) => {
    const y = (HEIGHT - (HEIGHT - 2) * Math.sqrt(bin) / most).toFixed(1);
    return `L${(i * step).toFixed(1)} ${y}L${((i + 1) * step).toFixed(1)} ${y}`;
  });
  return `M0 ${HEIGHT}${points.join("")}L${WIDTH} ${HEIGHT}Z`;
}
