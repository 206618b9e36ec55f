// The legend of values: the colour scale with its ends, and what the signs over the slide mean.

import { drawn, element } from "./elements.js";
import { STYLES } from "./overlay.js";
import { LEGEND, number } from "./words.js";

/**
 * The legend of a bundle's heat; `threshold` is the least score that is shown, null for all; `layers` those shown;
 * `names` the kinds of outlines there are: name -> `{kind, layer}`.
 */
export function legendOf(calibration, { threshold, layers, title, names = new Map() }) {
  const isHeat = layers.has("heat") && calibration;
  const keys = [...names].filter(([, { layer }]) => layers.has(layer));
  return [
    isHeat ? element("div", { class: "heat-scale" }, title ? element("b", {}, title) : "",
      scale(calibration, threshold),
      element("p", { class: "ends" }, element("span", {}, `${number(calibration.tile_median)} like normal tissue`),
        element("span", {}, `more abnormal ${number(calibration.tile_high)}`))) : "",
    element("p", { class: "keys" },
      isHeat && Number.isFinite(calibration.tile_p99) ? element("span", { class: "key-limit" }, `${number(calibration.tile_p99)}: 99 % of normal tiles score less`) : "",
      isHeat ? element("span", {}, hatched(), "could not be read, no score") : "",
      ...keys.map(([name, { kind }]) => element("span", {}, swatch({ fill: "none", stroke: STYLES[kind].stroke, dash: STYLES[kind].dash }), name))),
  ].filter(Boolean);
}

/** The scale; what lies below the threshold is crossed out in grey, since it is not shown. */
function scale(calibration, threshold) {
  const { tile_median: low, tile_high: high, tile_p99: limit } = calibration;
  const place = (value) => (high > low ? Math.max(0, Math.min(1, (value - low) / (high - low))) : 0);
  const hidden = threshold === null ? 0 : place(threshold);
  const step = 90 / LEGEND.length;
  return drawn("svg", { class: "scale", viewBox: "0 0 90 10", preserveAspectRatio: "none", role: "img", "aria-label": `Colour scale, pale is low, dark is high${hidden ? "; lower scores are hidden" : ""}` },
    ...LEGEND.map((colour, i) => drawn("rect", { x: i * step, y: 0, width: step + 0.2, height: 10, fill: colour })),
    hidden ? drawn("rect", { width: 90 * hidden, height: 10, fill: "#f6f7f9", "fill-opacity": 0.85 }) : "",
    hidden ? drawn("path", { d: `M${90 * hidden} 0V10`, stroke: "#1a2027", "stroke-width": 0.8 }) : "",
    Number.isFinite(limit) ? drawn("path", { d: `M${90 * place(limit)} 0V10`, stroke: "#1a2027", "stroke-width": 0.8, "stroke-dasharray": "2 1.5" }) : "");
}

function swatch({ fill, stroke, dash }) {
  return drawn("svg", { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" },
    drawn("rect", { x: 1, y: 1, width: 10, height: 10, fill, stroke, "stroke-width": 2, "stroke-dasharray": dash ? "3 2" : null }));
}

function hatched() {
  return drawn("svg", { viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true" },
    drawn("rect", { x: 1, y: 1, width: 10, height: 10, fill: "#fff", stroke: "#0046a0", "stroke-width": 2 }),
    drawn("path", { d: "m2 6 4-4M2 10l8-8M6 10l4-4", stroke: "#000", "stroke-width": 1.2 }));
}
