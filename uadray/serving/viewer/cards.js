// A slide as a card of the gallery.

import { pathOf } from "./api.js";
import { drawn, element } from "./elements.js";
import { flagTag } from "./notes.js";
import { lazyPicture } from "./pictures.js";
import { badge, GROUPS, groupOf, number, percent, reasonWords } from "./words.js";

/**
 * The card of a slide of a screening and a bundle.
 *
 * `hasHeat` says whether its picture is the heatmap; `scale` is the least and the greatest score of all
 * slides.
 */
export function card(slide, { screening, bundle, hasHeat, scale }) {
  const group = groupOf(slide);
  const isScored = group === "anomalous" || group === "normal";
  const place = `#${new URLSearchParams({ screening, bundle, slide: slide.slide_id })}`;
  return element("li", { class: `card ${group}`, "data-id": slide.slide_id },
    element("a", { href: place, "aria-label": `${slide.slide_id}, ${GROUPS[group]}${isScored ? `, p-value ${number(slide.p_value)}` : ""}` },
      element("span", { class: "picture" }, pictureOf(slide, { screening, bundle, hasHeat: hasHeat && isScored })),
      element("span", { class: "head" }, element("b", { class: "id" }, slide.slide_id), badge(group)),
      isScored ? figures(slide, scale) : reasons(slide),
      element("span", { class: "foot" },
        element("span", { class: "soft" }, [slide.site, slide.scanner].filter(Boolean).join(" · ")),
        element("span", { class: "tags" }, flagTag(slide.note)),
        slide.used_for ? element("span", { class: "note-tag" }, `used for ${slide.used_for}`) : "")));
}

function pictureOf(slide, { screening, bundle, hasHeat }) {
  if (slide.state === "failed") return element("span", { class: "lost" }, "no picture");
  return lazyPicture(pathOf(screening, slide.slide_id, hasHeat ? "/heatmap" : "/thumbnail", { bundle: hasHeat ? bundle : null, v: slide.version }), "");
}

function figures(slide, scale) {
  return element("span", { class: "figures" },
    element("span", { class: "p" }, element("small", {}, "p-value"), element("b", { class: "number" }, number(slide.p_value))),
    element("span", { class: "score" }, element("small", {}, "score / threshold"),
      element("span", { class: "number" }, element("b", {}, number(slide.score)), element("i", {}, ` / ${number(slide.threshold)}`)), scoreBar(slide, scale)),
    slide.coverage !== null && slide.coverage < 1 ? element("span", { class: "short" }, element("small", {}, "coverage"), percent(slide.coverage)) : "");
}

function reasons(slide) {
  return element("span", { class: "why" }, element("b", {}, reasonWords(slide.reason)), slide.message ? ` ${slide.message}` : "");
}

/** Where the score lies beside the threshold, on the scale of all slides. */
function scoreBar({ score, threshold }, [low, high]) {
  if (score === null || threshold === null) return "";
  const place = (value) => (3 + 94 * (value - low) / (high > low ? high - low : 1)).toFixed(2);
  return drawn("svg", { class: "bar", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("path", { d: "M0 6H100", class: "axis" }), drawn("path", { d: `M${place(score)} 6H0`, class: "value" }),
    drawn("path", { d: `M${place(threshold)} 0V12`, class: "limit" }));
}

/** The least and the greatest of the scores and thresholds of slides. */
export function scaleOf(slides) {
  const all = slides.flatMap((slide) => [slide.score, slide.threshold]).filter(Number.isFinite);
  return all.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}
