// How many slides a screening has, by what they ended as: words and figures of the worklist.

import { byId, element } from "./elements.js";
import { mark, slidesWord, thousands } from "./words.js";

/** Show the sum, and what was not screened; `n` counts by group. */
export function showSums(total, n) {
  drawSum(total, n);
  drawAlert(n);
}

function drawSum(total, n) {
  const count = (value, words, more = "", extra = "") =>
    element("div", { class: `count ${extra}` }, element("b", {}, thousands(value)), element("span", {}, words), more);
  const sign = (text) => element("span", { class: "sign", "aria-hidden": "true" }, text);
  const scored = element("p", {}, ...["anomalous", "normal"].map((group) =>
    element("span", { class: group }, mark(group), ` ${thousands(n[group])} ${group}`)));
  byId("sum").replaceChildren(
    count(total, total === 1 ? "slide" : "slides"), sign("="), count(n.anomalous + n.normal, "scored", scored), sign("+"),
    count(n.not_assessable, "not assessable", "", n.not_assessable ? "not_assessable" : "none"), sign("+"),
    count(n.failed, "failed", "", n.failed ? "failed" : "none"));
}

function drawAlert({ failed, not_assessable }) {
  const one = (count, first, second) => (count === 1 ? first : second);
  const lines = [
    failed ? [`${slidesWord(failed)} failed and ${one(failed, "was", "were")} NOT screened.`, ` Nothing is known about ${one(failed, "it", "them")}.`] : null,
    not_assessable ? [`${slidesWord(not_assessable)} could not be assessed`, ` and ${one(not_assessable, "has", "have")} no decision. That is not a normal result.`] : null,
  ].filter(Boolean);
  byId("counted").classList.toggle("quiet", lines.length === 0);
  byId("counted").replaceChildren(...lines.map(([bold, rest]) => element("p", {}, element("b", {}, bold), rest)),
    lines.length ? "" : element("p", {}, "Every slide was screened: none failed, all could be assessed."));
}
