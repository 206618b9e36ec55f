// The words, numbers and colours of the page: those of the worklist.

import { drawn, element } from "./elements.js";

export const GROUPS = { anomalous: "Anomalous", normal: "Normal", not_assessable: "Not assessable", failed: "Failed" };
export const FLAGS = { "": "No flag", follow_up: "Follow up", benign: "Benign", artefact: "Artefact", anomaly: "Anomaly" };

/** The colour scale over grey tissue, lowest first. */
export const LEGEND = [
  "#d0cea3", "#d6bd80", "#d8a86e", "#d39176", "#c57c7f", "#b16a87", "#965a8b", "#794988", "#543d74",
];

const UNKNOWN = "–";
const MARKS = {
  anomalous: { d: "M8 1.5 15.2 14.5H.8Z", fill: "currentColor" },
  normal: { d: "M2.4 8a5.6 5.6 0 1 0 11.2 0a5.6 5.6 0 1 0-11.2 0Z", "stroke-width": "2.4" },
  not_assessable: { d: "M8 1.4 14.6 8 8 14.6 1.4 8Z", "stroke-width": "2.4" },
  failed: { d: "m2.5 2.5 11 11m0-11-11 11", "stroke-width": "3.4" },
};
const TO_DO = {
  missing: "Its file is not where the manifest says. Put it back or correct its address, then submit it again.",
  unreadable: "Its file is damaged or of an unknown format. Copy or scan it again, then submit it again.",
  no_mpp: "Its file does not state the size of a pixel. Submit it again with the micrometres per pixel (mpp).",
  changed: "Its file was changed while it was read. Submit it again.",
  too_little_tissue: "Look at the slide: is there tissue, and was it scanned whole?",
  no_stain: "Look at the slide: it seems to be unstained or empty.",
  low_coverage: "Parts of its file cannot be read. Copy or scan it again, then submit it again.",
  pen: "Most of the tissue lies under pen. Clean the slide and scan it again.",
  folds: "Most of the tissue is folded. A new section would help.",
  air: "Much of the tissue lies under air bubbles. Mount it again, then scan it again.",
  out_of_focus: "Most of the tissue is out of focus. Scan it again.",
  poor_quality: "Too little of the tissue is of good quality. Look at the slide; scan it again if that can help.",
};

/** Significant digits without an exponent where people can read it, a dash for nothing. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN;
  const whole = Math.abs(Math.round(value));
  if (whole >= 10 ** digits && whole < 10 ** 7) return thousands(Math.round(value));
  const [mantissa, power] = value.toExponential(digits - 1).split("e");
  const exponent = Number(power);
  if (exponent >= -4 && exponent < digits) return value.toFixed(digits - 1 - exponent);
  return `${mantissa}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

/** A share as per cent, never rounded up to 100 or down to 0. */
export function percent(value) {
  if (value === null || value === undefined) return UNKNOWN;
  const rest = 100 - value * 100;
  if (rest > 0 && rest < 0.1) return "99.9 %";
  return `${Number((value * 100).toPrecision(value < 0.1 ? 2 : 3))} %`;
}

/** Digits in groups of three. */
export function thousands(value) {
  if (value === null || value === undefined) return UNKNOWN;
  return String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** `1 slide`, `2 slides`. */
export function slidesWord(count) {
  return `${thousands(count)} slide${count === 1 ? "" : "s"}`;
}

/** When something was written, as `2026-11-26 10:59 UTC`. */
export function moment(when) {
  const date = new Date(typeof when === "number" ? when * 1000 : when);
  return Number.isNaN(date.getTime()) ? String(when) : `${date.toISOString().slice(0, 16).replace("T", " ")} UTC`;
}

/** What a slide ended as. */
export function groupOf(record) {
  if (record.state !== "scored") return record.state === "failed" ? "failed" : "not_assessable";
  return record.decision === "anomalous" ? "anomalous" : "normal";
}

/** The sign of a group, the same without colour. */
export function mark(group) {
  const path = drawn("path", { fill: "none", stroke: group === "anomalous" ? "none" : "currentColor", ...MARKS[group] });
  return drawn("svg", { class: "mark", viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" }, path);
}

/** The group of a slide as a label. */
export function badge(group) {
  return element("span", { class: `badge ${group}` }, mark(group), GROUPS[group]);
}

/** A reason as people read it. */
export function reasonWords(reason) {
  return reason ? reason.replaceAll("_", " ") : "no reason given";
}

/** What can be done about a slide without a decision. */
export function whatToDo(record) {
  return TO_DO[record.reason] ?? (record.state === "failed"
    ? "Ask whoever runs the endpoint: its log says more. Then submit the slide again."
    : "Look at the slide itself.");
}

/** JSON that a record carries as text, or already opened. */
export function opened(value, otherwise) {
  if (value === null || value === undefined || value === "") return otherwise;
  return typeof value === "string" ? JSON.parse(value) : value;
}
