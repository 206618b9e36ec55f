// The gallery: every slide of a screening as a card, sorted and filtered by the endpoint.

import { get, pathOf } from "./api.js";
import * as address from "./address.js";
import { announce, byId, drawn, element } from "./elements.js";
import { flagTag, noteForm } from "./notes.js";
import { lazyPicture, release } from "./pictures.js";
import { FILTERS, more, onSlides, placeOf, queue, restart, start } from "./queue.js";
import { badge, FLAGS, GROUPS, groupOf, mark, number, percent, reasonWords, slidesWord, thousands } from "./words.js";

const QUERY = { anomalous: { decision: "anomalous" }, normal: { decision: "normal" }, not_assessable: { state: "not_assessable" }, failed: { state: "failed" } };
/** What the endpoint calls a value that a slide does not have. */
const NONE = "none";
let of = null;
let chosen = null;
let handlers = null;

/** Set the gallery up once. `opens(slideId)` opens a slide; `fails(error)` is told what went wrong. */
export function prepare(given) {
  handlers = given;
  onSlides(addCards);
  byId("q").addEventListener("input", later(() => filter({ q: byId("q").value.trim() })));
  byId("sort").addEventListener("change", () => {
    const [sort, order] = byId("sort").value.split(" ");
    filter({ sort, order });
  });
  byId("filters").addEventListener("input", later(() => filter(Object.fromEntries(new FormData(byId("filters"))))));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => filter(Object.fromEntries([...new FormData(byId("filters")).keys()].map((name) => [name, ""]))));
  byId("more-filters").addEventListener("click", () => showFilters(byId("filters").hidden));
  byId("pictures").addEventListener("click", () => filter({ pictures: address.read().pictures ? "" : "slide" }));
  byId("more").addEventListener("click", () => more().catch(handlers.fails));
  new IntersectionObserver(([entry]) => entry.isIntersecting && queue.slides.length && more().catch(handlers.fails), { rootMargin: "800px" })
    .observe(byId("more"));
  byId("cards").addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    event.preventDefault();
    handlers.opens(card.dataset.id);
  });
  byId("cards").addEventListener("focusin", (event) => choose(event.target.closest(".card")?.dataset.id ?? null));
}

/** Show what the address asks for, of a screening and a bundle. */
export async function show(screening, bundle) {
  const asked = address.read();
  const isNew = of?.screening !== screening || of?.bundle !== bundle;
  of = { screening, bundle };
  showControls(asked);
  if (isNew) await counts();
  byId("loading").hidden = false;
  try {
    await start(query(asked));
    if (!queue.slides.length) addCards([], true);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  } finally {
    byId("loading").hidden = true;
  }
}

/** Take up what was changed outside of the gallery: the note of a slide. */
export function noteChanged(slideId, note) {
  const slide = queue.slides[placeOf(slideId)];
  if (slide) slide.note = note;
  cardOf(slideId)?.querySelector(".tags").replaceChildren(flagTag(note));
}

/** Put the focus on a slide's card, or on the first. */
export function focusOn(slideId) {
  const card = cardOf(slideId) ?? byId("cards").firstElementChild;
  card?.querySelector("a").focus();
  card?.scrollIntoView({ block: "nearest" });
}

export function keys() {
  const step = (by) => async () => {
    const place = Math.max(0, placeOf(chosen) + (chosen === null ? 0 : by));
    if (place >= queue.slides.length) await more().catch(handlers.fails);
    if (queue.slides[place]) focusOn(queue.slides[place].slide_id);
  };
  const open = () => chosen !== null && handlers.opens(chosen);
  return {
    j: step(1), k: step(-1), ArrowDown: step(1), ArrowRight: step(1), ArrowUp: step(-1), ArrowLeft: step(-1), o: open, Enter: open,
    f: () => withNote(async (form, slideId) => (await form.cycle()) || noteDialog(form, slideId)), n: () => withNote(noteDialog),
  };
}

function query(asked) {
  const kept = Object.fromEntries(FILTERS.filter((name) => asked[name]).map((name) => [name, asked[name]]));
  return { ...of, sort: asked.sort ?? "p_value", order: asked.order ?? "asc", ...kept };
}

function filter(changes) {
  address.write(changes);
  if ("pictures" in changes) restart();
  show(of.screening, of.bundle).catch(handlers.fails);
}

function later(act) {
  let timer = null;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, 250);
  };
}

function showFilters(isShown) {
  byId("filters").hidden = !isShown;
  byId("more-filters").setAttribute("aria-expanded", String(isShown));
}

/** Bring every control to what the address says. */
function showControls(asked) {
  const names = [...byId("filters").elements].filter((field) => field.name);
  if (document.activeElement !== byId("q")) byId("q").value = asked.q ?? "";
  byId("sort").value = `${asked.sort ?? "p_value"} ${asked.order ?? "asc"}`;
  for (const field of names) if (field.tagName === "INPUT" && document.activeElement !== field) field.value = asked[field.name] ?? "";
  for (const field of names) if (field.tagName === "SELECT") fillSelect(field, asked[field.name] ?? "");
  const n = names.filter((field) => asked[field.name]).length;
  byId("n-filters").textContent = n ? ` (${n})` : "";
  if (n) showFilters(true);
  byId("pictures").setAttribute("aria-pressed", String(!asked.pictures));
  for (const button of byId("groups").children) button.setAttribute("aria-pressed", String(isPressed(button.dataset.show, asked)));
}

function isPressed(group, asked) {
  const { decision = "", state = "" } = QUERY[group] ?? {};
  return (asked.decision ?? "") === decision && (asked.state ?? "") === state;
}

function fillSelect(select, value) {
  const known = select.name === "flag" ? Object.keys(FLAGS).filter(Boolean) : Object.keys(of.facets?.[select.name] ?? {}).filter((key) => key !== NONE || select.name !== "reason");
  const words = { flag: (key) => FLAGS[key] ?? key, reason: reasonWords }[select.name] ?? ((key) => key);
  const facets = of.facets?.[select.name] ?? {};
  const keys = value && !known.includes(value) ? [...known, value] : known;
  const option = (key) => element("option", { value: key }, `${key === NONE ? "not stated" : words(key)} (${thousands(facets[key] ?? 0)})`);
  select.replaceChildren(element("option", { value: "" }, "any"), ...keys.sort().map(option));
  select.value = value;
  select.parentElement.hidden = keys.every((key) => key === NONE);
}

/** The sum at the top: every slide of the screening by what it ended as, whatever the filters are. */
async function counts() {
  const { screening, bundle } = of;
  const answer = await get(pathOf(screening, null, "", { bundle, limit: 1 }));
  if (of.screening !== screening || of.bundle !== bundle) return;
  const { decision = {}, state = {} } = answer.facets ?? {};
  const n = {
    anomalous: decision.anomalous ?? 0, normal: decision.normal ?? 0,
    not_assessable: state.not_assessable ?? 0, failed: state.failed ?? 0,
  };
  drawSum(answer.total, n);
  drawAlert(n);
  const button = (group, label, count) => element("button", {
    type: "button", "data-show": group, class: group, "aria-pressed": "false",
    onclick: () => filter({ decision: "", state: "", ...QUERY[group] }),
  }, group ? mark(group) : "", label, element("i", {}, thousands(count)));
  byId("groups").replaceChildren(button("", "All", answer.total), ...Object.entries(GROUPS).map(([group, label]) => button(group, label, n[group])));
  showControls(address.read());
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

function addCards(slides, isFirst) {
  const list = byId("cards");
  if (isFirst) {
    release(list);
    list.replaceChildren();
    of.facets = queue.facets;
    showControls(address.read());
  }
  list.append(...slides.map(card));
  byId("shown").value = `${thousands(queue.slides.length)} of ${thousands(queue.total)} shown`;
  byId("more").hidden = queue.isComplete;
  byId("nothing").hidden = queue.slides.length > 0;
  announce(`${slidesWord(queue.total)} ${queue.total === 1 ? "matches" : "match"}, ${thousands(queue.slides.length)} shown`);
}

function card(slide) {
  const group = groupOf(slide);
  const isScored = group === "anomalous" || group === "normal";
  const place = `#${new URLSearchParams({ screening: of.screening, bundle: of.bundle, slide: slide.slide_id })}`;
  return element("li", { class: `card ${group}`, "data-id": slide.slide_id },
    element("a", { href: place, "aria-label": `${slide.slide_id}, ${GROUPS[group]}${isScored ? `, p-value ${number(slide.p_value)}` : ""}` },
      element("span", { class: "picture" }, pictureOf(slide, isScored)),
      element("span", { class: "head" }, element("b", { class: "id" }, slide.slide_id), badge(group)),
      isScored ? figures(slide) : reasons(slide),
      element("span", { class: "foot" },
        element("span", { class: "soft" }, [slide.site, slide.scanner].filter(Boolean).join(" · ")),
        element("span", { class: "tags" }, flagTag(slide.note)),
        slide.used_for ? element("span", { class: "note-tag" }, `used for ${slide.used_for}`) : "")));
}

function pictureOf(slide, isScored) {
  if (slide.state === "failed") return element("span", { class: "lost" }, "no picture");
  const isHeat = isScored && !address.read().pictures;
  return lazyPicture(pathOf(of.screening, slide.slide_id, isHeat ? "/heatmap" : "/thumbnail", { bundle: isHeat ? of.bundle : null, v: slide.version }), "");
}

function figures(slide) {
  return element("span", { class: "figures" },
    element("span", { class: "p" }, element("small", {}, "p-value"), element("b", { class: "number" }, number(slide.p_value))),
    element("span", { class: "score" }, element("small", {}, "score / threshold"),
      element("span", { class: "number" }, element("b", {}, number(slide.score)), element("i", {}, ` / ${number(slide.threshold)}`)), scoreBar(slide)),
    slide.coverage !== null && slide.coverage < 1 ? element("span", { class: "short" }, element("small", {}, "coverage"), percent(slide.coverage)) : "");
}

function reasons(slide) {
  return element("span", { class: "why" }, element("b", {}, reasonWords(slide.reason)), slide.message ? ` ${slide.message}` : "");
}

/** Where the score lies beside the threshold, on the scale of the scores that are listed. */
function scoreBar({ score, threshold }) {
  if (score === null || threshold === null) return "";
  const all = queue.slides.flatMap((slide) => [slide.score, slide.threshold]).filter((value) => Number.isFinite(value));
  const [low, high] = all.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const place = (value) => (3 + 94 * (value - low) / (high > low ? high - low : 1)).toFixed(2);
  return drawn("svg", { class: "bar", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("path", { d: "M0 6H100", class: "axis" }), drawn("path", { d: `M${place(score)} 6H0`, class: "value" }),
    drawn("path", { d: `M${place(threshold)} 0V12`, class: "limit" }));
}

function cardOf(slideId) {
  return [...byId("cards").children].find((one) => one.dataset.id === slideId);
}

function choose(slideId) {
  chosen = slideId;
}

/** Open the note of the chosen slide: its tag is that of now, so that what its reader has not seen is not lost. */
async function withNote(act) {
  if (chosen === null) return;
  const [slideId, seen] = [chosen, queue.slides[placeOf(chosen)]?.note ?? null];
  try {
    const there = await get(pathOf(of.screening, slideId));
    const isSeen = (there.note?.flag ?? "") === (seen?.flag ?? "") && (there.note?.text ?? "") === (seen?.text ?? "");
    noteChanged(slideId, there.note);
    const form = noteForm({
      screening: of.screening, slideId, note: there.note, etag: there.note_etag, onSaved: (note) => noteChanged(slideId, note),
    });
    if (isSeen) await act(form, slideId);
    else noteDialog(form, slideId);
  } catch (error) {
    handlers.fails(error);
  }
}

function noteDialog(form, slideId) {
  const dialog = byId("note-dialog");
  byId("note-dialog-title").textContent = slideId;
  dialog.children[1].replaceChildren(form.element);
  dialog.addEventListener("close", () => focusOn(slideId), { once: true });
  dialog.showModal();
  form.focus();
}
