// What is known of a slide, in words: its decision, its figures, and what to do where there is no decision.

import { element } from "./elements.js";
import { groupOf, number, opened, percent, reasonWords, thousands, whatToDo } from "./words.js";

/** The section of a slide's decision. */
export function factsOf(record) {
  const group = groupOf(record);
  const isScored = group === "anomalous" || group === "normal";
  return [
    isScored ? figures(record) : reason(record, group),
    isScored ? element("p", {}, ...sentences(record)) : element("p", {}, element("b", {}, group === "failed" ? "Not screened. " : "No decision. "), "It is not a normal result."),
    isScored ? "" : element("p", { class: "to-do" }, element("b", {}, "What to do: "), whatToDo(record)),
  ].filter(Boolean);
}

/** What else is known of the slide: its size, where it comes from, and what judged it. */
export function detailsOf(record, bundle) {
  return element("dl", {}, ...rows(record, bundle).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function figures(record) {
  const figure = (words, value, more = "") => element("div", {}, element("small", {}, words), element("b", { class: "number" }, value), more);
  return element("div", { class: "figures large" },
    figure("p-value", number(record.p_value)),
    figure("score / threshold", number(record.score), element("i", { class: "number" }, ` / ${number(record.threshold)}`)),
    figure("coverage", percent(record.coverage)));
}

function reason(record, group) {
  return element("p", { class: `reason ${group}` }, element("b", {}, reasonWords(record.reason)), record.message ? `: ${record.message}` : "");
}

function sentences(record) {
  const flags = Object.entries(opened(record.flags, {})).sort((a, b) => b[1] - a[1]);
  const good = record.n_tiles === null ? null : record.n_tiles - flags.reduce((sum, [, count]) => sum + count, 0);
  const left = flags.map(([flag, count]) => `${thousands(count)} ${flag.replaceAll("_", " ")}`).join(", ");
  return [
    usedFor(record) ? element("b", {}, `This slide was used for ${usedFor(record)}: its p-value is no news. `) : "",
    record.p_value === null ? "" : `About ${percent(record.p_value)} of slides known to be normal would score at least this high. `,
    `${thousands(record.n_scored)} of ${thousands(good)} tissue tiles were scored`,
    record.n_scored < good ? element("b", {}, `; ${thousands(good - record.n_scored)} could not be read`) : "", ".",
    left ? ` Left out for their quality: ${left}.` : "",
  ];
}

/** `training` or `calibration`; a reviewer's note has another place in the answer of a slide. */
function usedFor(record) {
  return typeof record.note === "string" ? record.note : record.used_for ?? null;
}

function rows(record, bundle) {
  const size = record.width_level0_px ? `${thousands(record.width_level0_px)} × ${thousands(record.height_level0_px)} px` : null;
  return [
    ["Size", [size, record.mpp_level0 ? `${number(record.mpp_level0)} µm/px` : null].filter(Boolean).join(", ")],
    ["Site", record.site], ["Scanner", record.scanner], ["Stain", record.stain],
    ["Bundle", bundle ? [bundle.name, bundle.detector].filter(Boolean).join(", ") : null],
    ["Calibration", record.calibration_id],
    ["False alarms", record.alpha ? `about ${percent(record.alpha)} of normal slides at most` : null],
    ["File", record.uri],
  ].filter(([, value]) => value);
}
