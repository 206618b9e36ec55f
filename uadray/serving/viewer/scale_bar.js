// A scale bar of a round length, in micrometres or millimetres; in pixels where the slide does not say how large one is.

import { element } from "./elements.js";
import { scaleOfScreen } from "./overlay.js";

const LONGEST_PX = 150;

/** The longest of 1, 2, 5, 10, ... that fits into some pixels of the screen: `{length, words}`, `length` in such pixels. */
export function roundLength(units_a_px, unit, longest_px = LONGEST_PX) {
  const most = longest_px * units_a_px;
  const power = 10 ** Math.floor(Math.log10(most));
  const value = [5, 2, 1].map((step) => step * power).find((step) => step <= most) ?? power;
  const words = unit === "µm" && value >= 1000 ? `${value / 1000} mm` : `${Number(value.toPrecision(3))} ${unit}`;
  return { length: value / units_a_px, words };
}

/** Draw it, where a pixel of the screen is `zoom` level-0 pixels. */
export function drawScaleBar(bar, { mpp }, zoom) {
  const { length, words } = roundLength(zoom * (mpp ?? 1), mpp ? "µm" : "px", LONGEST_PX * scaleOfScreen());
  if (!bar.firstChild) bar.append(element("span"), element("b"));
  bar.firstChild.textContent = words;
  bar.lastChild.style.width = `${length.toFixed(1)}px`;
  bar.setAttribute("aria-label", `Scale bar: ${words}`);
}
