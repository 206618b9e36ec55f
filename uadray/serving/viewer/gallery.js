// The gallery: every slide of a screening as a card, sorted and filtered by the endpoint.

import { get, pathOf } from "./api.js";
import * as address from "./address.js";
import { card, scaleOf } from "./cards.js";
import { announce, byId, element } from "./elements.js";
import { flagTag, noteForm } from "./notes.js";
import { release } from "./pictures.js";
import { FILTERS, more, onSlides, placeOf, queue, restart, start } from "./queue.js";
import { showSums } from "./sums.js";
import { FLAGS, GROUPS, mark, reasonWords, slidesWord, thousands } from "./words.js";

const QUERY = { anomalous: { decision: "anomalous" }, normal: { decision: "normal" }, not_assessable: { state: "not_assessable" }, failed: { state: "failed" } };
/** What the endpoint calls a value that a slide does not have. */
const NONE = "none";
/** The screening and bundle that are shown, with their facets and the scale of their scores. */
let of = null;
let chosen = null;
let handlers = null;
/** The next page comes when the end of the list comes near. */
const end = new IntersectionObserver(([entry]) => entry.isIntersecting && queue.slides.length && more().catch(handlers.fails), { rootMargin: "800px" });

/** Set the gallery up once. `opens(slideId)` opens a slide; `fails(error)` is told what went wrong. */
export function prepare(given) {
  handlers = given;
  onSlides(addCards);
  // What was typed is kept as it was then: until it is asked for, slides of an earlier question may come and set the fields.
  const search = later(filter), narrow = later(filter);
  byId("q").addEventListener("input", () => search({ q: byId("q").value.trim() }));
  byId("sort").addEventListener("change", () => {
    const [sort, order] = byId("sort").value.split(" ");
    filter({ sort, order });
  });
  byId("filters").addEventListener("input", () => narrow(Object.fromEntries(new FormData(byId("filters")))));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => narrow(Object.fromEntries([...new FormData(byId("filters")).keys()].map((name) => [name, ""]))));
  byId("more-filters").addEventListener("click", () => showFilters(byId("filters").hidden));
  byId("pictures").addEventListener("click", () => filter({ pictures: address.read().pictures ? "" : "slide" }));
  byId("more").addEventListener("click", () => more().catch(handlers.fails));
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
  if (isNew) of = { screening, bundle };
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
  return { screening: of.screening, bundle: of.bundle, sort: asked.sort ?? "p_value", order: asked.order ?? "asc", ...kept };
}

function filter(changes) {
  address.write(changes);
  if ("pictures" in changes) restart();
  show(of.screening, of.bundle).catch(handlers.fails);
}

function later(act) {
  let timer = null;
  return (changes) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(changes), 250);
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
  const ends = ["desc", "asc"].map((order) => get(pathOf(screening, null, "", { bundle, limit: 1, sort: "score", order })));
  const [answer, least] = await Promise.all(ends);
  if (of.screening !== screening || of.bundle !== bundle) return;
  const { decision = {}, state = {} } = answer.facets ?? {};
  const n = {
    anomalous: decision.anomalous ?? 0, normal: decision.normal ?? 0,
    not_assessable: state.not_assessable ?? 0, failed: state.failed ?? 0,
  };
  of.scale = scaleOf([...answer.slides, ...least.slides]);
  showSums(answer.total, n);
  const button = (group, label, count) => element("button", {
    type: "button", "data-show": group, class: group, "aria-pressed": "false",
    onclick: () => filter({ decision: "", state: "", ...QUERY[group] }),
  }, group ? mark(group) : "", label, element("i", {}, thousands(count)));
  byId("groups").replaceChildren(button("", "All", answer.total), ...Object.entries(GROUPS).map(([group, label]) => button(group, label, n[group])));
  showControls(address.read());
}

function addCards(slides, isFirst) {
  const list = byId("cards");
  if (isFirst) {
    release(list);
    list.replaceChildren();
    of.facets = queue.facets;
    showControls(address.read());
  }
  const about = { ...of, hasHeat: !address.read().pictures };
  list.append(...slides.map((slide) => card(slide, about)));
  byId("shown").value = `${thousands(queue.slides.length)} of ${thousands(queue.total)} shown`;
  byId("more").hidden = queue.isComplete;
  end.unobserve(byId("more")); // observed anew it tells again where it is
  end.observe(byId("more"));
  byId("nothing").hidden = queue.slides.length > 0;
  announce(`${slidesWord(queue.total)} ${queue.total === 1 ? "matches" : "match"}, ${thousands(queue.slides.length)} shown`);
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
      onDone: () => byId("note-dialog").close(),
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
