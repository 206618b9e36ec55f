// The panes: the slide with the heat of its bundle, and perhaps that of another bundle beside it, moving together.

import { get, pathOf, picture, sentence } from "./api.js";
import * as address from "./address.js";
import { announce, byId, element } from "./elements.js";
import { applyLayers, hasHeat, prepareLayers, thresholdOf } from "./layers.js";
import { lazyPicture } from "./pictures.js";
import { follow, goTo, layHeat, openScope, placeOfView } from "./scope.js";
import { addShapes, choose } from "./tiles.js";
import { groupOf, number } from "./words.js";

const isDecided = (record) => ["anomalous", "normal"].includes(groupOf(record));

/** The record of a bundle in the answer about a slide. */
export function recordOf(answer, bundle) {
  return answer.decisions.find((record) => (record.bundle ?? "") === bundle.folder) ?? answer.decisions[0];
}

/** Offer the other bundles, of all screenings; what the address says is chosen. */
export function fillBeside(view) {
  const others = view.screenings.flatMap((screening) => screening.bundles.map((bundle) => ({ screening, bundle })))
    .filter(({ screening, bundle }) => screening.screening !== view.screening || bundle.folder !== view.bundle.folder);
  const select = byId("beside");
  select.replaceChildren(element("option", { value: "" }, "nothing"), ...others.map(({ screening, bundle }) =>
    element("option", { value: `${screening.screening}/${bundle.folder}` }, `${bundle.name} (${screening.screening})`)));
  select.value = address.read().beside ?? "";
  if (select.selectedIndex < 0) select.value = "";
  select.parentElement.hidden = others.length === 0;
}

function besideOf(view) {
  const [name, ...folder] = (byId("beside").value || "").split("/");
  const screening = view.screenings.find((one) => one.screening === name);
  const bundle = screening?.bundles.find((one) => one.folder === folder.join("/"));
  return bundle ? { screening: name, bundle } : null;
}

/** The next of the other bundles, or none. */
export function nextBeside() {
  const select = byId("beside");
  if (select.options.length < 2) return announce("There is no other bundle.");
  select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
  select.dispatchEvent(new Event("change"));
}

/** Open what is to be seen of a slide, in the place of what was open. */
export async function openPanes(view) {
  const { answer, screening, bundle, record } = view;
  for (const scope of view.scopes.splice(0)) scope.close();
  address.write({ beside: byId("beside").value });
  const why = answer.image ? await whyClosed(view) : "";
  const other = why === null ? besideOf(view) : null;
  const panes = [{ screening, bundle, record, image: answer.image, version: answer.version }];
  if (other) panes.push(await paneBeside(view, other));
  if (view.stop.signal.aborted || view.scopes.length) return;
  byId("panes").replaceChildren();
  byId("layers").hidden = byId("legend").hidden = why !== null;
  byId("panes").classList.toggle("two", panes.length > 1);
  if (why !== null) return showKept(view, why);
  for (const pane of panes) view.scopes.push(openPane(view, pane, panes.length > 1));
  [view.leader] = view.scopes;
  prepareLayers(view);
  await addShapes(view);
}

/** Why the slide's file cannot be opened now, or null: its coarsest tile is asked for, which the picture needs anyway. */
async function whyClosed({ screening, slideId, answer: { image }, stop }) {
  try {
    await picture(pathOf(screening, slideId, `/image/${image.min_level}/0_0`, { v: image.version }), { signal: stop.signal });
    return null;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return sentence(error);
  }
}

/** What is left to see of a slide that cannot be opened: the picture that the screening kept. */
function showKept(view, why) {
  const { screening, slideId, bundle, answer } = view;
  const hasFailed = groupOf(view.record) === "failed";
  byId("panes").replaceChildren(element("div", { class: "empty" },
    element("p", {}, element("b", {}, hasFailed ? "This slide failed, so there is no picture of it." : "The slide's file cannot be opened now."), why ? ` ${why}` : ""),
    hasFailed ? "" : element("p", {}, "What was decided stays. Once the file is back in its place, it can be looked at again."),
    view.record.n_scored ? lazyPicture(pathOf(screening, slideId, "/heatmap", { bundle: bundle.folder, v: answer.version }), "The heatmap that was kept") : ""));
}

async function paneBeside(view, { screening, bundle }) {
  if (screening === view.screening) return { screening, bundle, record: recordOf(view.answer, bundle), image: view.answer.image, version: view.answer.version };
  const answer = await get(pathOf(screening, view.slideId), { signal: view.stop.signal });
  return { screening, bundle, record: recordOf(answer, bundle), image: answer.image ?? view.answer.image, version: answer.version };
}

function openPane(view, { screening, bundle, record, image, version }, isOneOfTwo) {
  const title = isOneOfTwo ? `${bundle.name} (${screening}): ${describe(record)}` : `Slide ${view.slideId}`;
  const scope = openScope(byId("panes"), {
    screening, slideId: view.slideId, bundle: bundle.folder, image, version, title, onClick: (x, y) => choose(view, x, y), onTrouble: said,
    onMove: (moved) => moves(view, moved), onTouch: (touched) => { view.leader = touched; },
  });
  Object.assign(scope, { about: bundle, record, calibration: bundle.calibration ?? {} });
  scope.viewer.addOnceHandler("open", () => {
    goToAddress(scope);
    if (hasHeat(scope)) layHeat(scope, { threshold: thresholdOf(view, scope) });
    applyLayers(view);
  });
  return scope;
}

function describe(record) {
  return isDecided(record) ? `${record.decision}, score ${number(record.score)}, p ${number(record.p_value)}` : groupOf(record).replace("_", " ");
}

/** Bring a pane to the place that the address names, if it names one. */
export function goToAddress(scope) {
  const asked = address.read();
  const [x, y, zoom] = ["x", "y", "zoom"].map((name) => address.numberOf(asked[name]));
  if (x !== null && y !== null) goTo(scope, { x, y, zoom }, true);
}

/** The pane that leads moved: the other follows, and the address says where. */
function moves(view, moved) {
  if (view.leader !== moved) return;
  for (const scope of view.scopes) if (scope !== moved && scope.viewer.isOpen()) follow(scope, moved);
  clearTimeout(view.timer);
  view.timer = setTimeout(() => {
    const { x, y, zoom } = placeOfView(moved);
    if (Number.isFinite(zoom)) address.write({ x: Math.round(x), y: Math.round(y), zoom: Number(zoom.toPrecision(4)) });
  }, 200);
}

/** Say that tiles do not come, until one does. */
function said(text) {
  const line = byId("panes").querySelector(".said-of-tiles");
  if (text === null) line?.remove();
  else if (!line) byId("panes").append(element("p", { class: "said-of-tiles", role: "alert" }, text));
}
