// One slide: its picture with the layers over it, perhaps that of another bundle beside it, and what is known of it.

import { get, pathOf } from "./api.js";
import { announce, byId, element } from "./elements.js";
import { detailsOf, factsOf } from "./facts.js";
import { controls, showLayers, stronger, switchLayer, toggleOutlines } from "./layers.js";
import { flagTag, noteForm } from "./notes.js";
import { fillBeside, goToAddress, nextBeside, openPanes, recordOf } from "./panes.js";
import { neighbour, placeOf, queue } from "./queue.js";
import { move, placeOfView, showWhole, zoomBy } from "./scope.js";
import { choose, nextMark } from "./tiles.js";
import { badge, groupOf, thousands } from "./words.js";

/** What is shown: the slide's answer and record, its panes, layers and chosen tile; null in the gallery. */
let shown = null;
let handlers = null;

/** Set the view up once. `goes(slideId)` goes to another slide, `leaves()` to the gallery; `fails(error)`; `noted(id, note)`. */
export function prepare(given) {
  handlers = given;
  controls(() => shown);
  addEventListener("beforeunload", (event) => shown?.note?.isChanged() && event.preventDefault());
  byId("beside").addEventListener("change", () => openPanes(shown).catch(handlers.fails));
}

/** Show a slide. `screenings` are those that another bundle may be chosen from. */
export async function show({ screenings, screening, bundle, slideId }) {
  close();
  const view = { screenings, screening, bundle, slideId, scopes: [], outlines: [], threshold: null, at: -1, stop: new AbortController() };
  shown = view;
  byId("slide-title").textContent = slideId;
  byId("slide-badge").replaceChildren();
  byId("slide-flag").replaceChildren();
  for (const id of ["facts", "marked", "tile", "review", "details"]) byId(id).replaceChildren();
  byId("panes").replaceChildren(element("p", { class: "empty" }, "Opening the slide …"));
  showPlace();
  const answer = await get(pathOf(screening, slideId), { signal: view.stop.signal });
  Object.assign(view, { answer, record: recordOf(answer, bundle) });
  showPanel(view);
  await openPanes(view);
}

/** Leave the slide: nothing of it goes on. */
export function close() {
  if (!shown) return;
  if (shown.note?.isChanged()) shown.note.save();
  shown.stop.abort();
  clearTimeout(shown.timer);
  for (const scope of shown.scopes) scope.close();
  shown = null;
}

/** Put the focus on the picture, or where there is none on the slide's name. */
export function focusOn() {
  (byId("panes").querySelector(".scope") ?? byId("slide-title")).focus({ preventScroll: true });
}

/** What keys do here. */
export function keys() {
  const view = shown;
  const scoped = (act) => () => view?.leader && act(view.leader);
  return {
    j: () => step(1), k: () => step(-1), g: leave, Escape: leave,
    f: () => view?.note?.cycle(), n: () => view?.note?.focus(),
    h: () => switchLayer("heat"), m: toggleOutlines, "[": () => stronger(-10), "]": () => stronger(10),
    t: () => nextMark(view, 1), T: () => nextMark(view, -1), b: nextBeside,
    ArrowUp: scoped((s) => move(s, 0, -0.2)), ArrowDown: scoped((s) => move(s, 0, 0.2)),
    ArrowLeft: scoped((s) => move(s, -0.2, 0)), ArrowRight: scoped((s) => move(s, 0.2, 0)),
    "+": scoped((s) => zoomBy(s, 1.5)), "=": scoped((s) => zoomBy(s, 1.5)), "-": scoped((s) => zoomBy(s, 1 / 1.5)), 0: scoped(showWhole),
    Enter: scoped((s) => { const { x, y } = placeOfView(s); choose(view, x, y); }),
  };
}

/** What the address says of the slide's place, after Back or a pasted address. */
export function restorePlace() {
  if (!shown?.scopes.length) return;
  [shown.leader] = shown.scopes;
  showLayers(shown);
  goToAddress(shown.scopes[0]);
}

/** Whether the note is written down; a slide is not left while it is not. */
async function isNoted() {
  const isDone = !shown?.note?.isChanged() || await shown.note.save();
  if (!isDone) byId("review").scrollIntoView({ block: "nearest" });
  return isDone;
}

async function leave() {
  if (await isNoted()) handlers.leaves();
}

async function step(by) {
  try {
    if (!await isNoted()) return;
    const next = await neighbour(shown.slideId, by);
    if (next) handlers.goes(next.slide_id);
    else announce(by > 0 ? "This is the last slide." : "This is the first slide.");
  } catch (error) {
    handlers.fails(error);
  }
}

/** Tell where in the queue the slide is; again once the queue has come. */
export function showPlace() {
  const place = shown ? placeOf(shown.slideId) : -1;
  byId("place").textContent = place < 0 ? "" : `${thousands(place + 1)} of ${thousands(queue.total)}`;
  for (const button of byId("place").parentElement.querySelectorAll("button")) button.disabled = place < 0;
}

function showPanel(view) {
  const { record, bundle } = view;
  byId("slide-badge").replaceChildren(badge(groupOf(record)));
  byId("facts").replaceChildren(element("h2", {}, "Decision"), ...factsOf(record));
  byId("details").replaceChildren(element("h2", {}, "Details"), detailsOf(record, bundle));
  showNote(view);
  fillBeside(view);
}

function showNote(view) {
  const { answer, screening, slideId } = view;
  byId("slide-flag").replaceChildren(flagTag(answer.note));
  view.note = noteForm({
    screening, slideId, note: answer.note, etag: answer.note_etag,
    onDone: focusOn,
    onSaved: (note) => {
      handlers.noted(slideId, note);
      if (shown === view) byId("slide-flag").replaceChildren(flagTag(note));
    },
  });
  byId("review").replaceChildren(element("h2", {}, "Review"), view.note.element);
}
