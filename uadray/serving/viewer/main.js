// The page: which screening, and the gallery or a slide of it, as the address says.

import { asksWith, forgetToken, get, hasToken, sentence } from "./api.js";
import * as address from "./address.js";
import { byId, element } from "./elements.js";
import * as gallery from "./gallery.js";
import { listen, prepareHelp } from "./keys.js";
import * as queue from "./queue.js";
import * as slide from "./slide.js";
import { number, percent } from "./words.js";

const PLACE = ["slide", "x", "y", "zoom"];
let screenings = [];
let at = null;

async function begin() {
  asksWith(askForToken);
  prepareHelp();
  gallery.prepare({ opens: openSlide, fails });
  slide.prepare({ goes: openSlide, leaves, fails, noted: gallery.noteChanged });
  listen(() => (address.read().slide ? slide.keys() : gallery.keys()));
  byId("trouble").querySelector("button").addEventListener("click", () => location.reload());
  byId("screening").addEventListener("change", () => address.write({ screening: byId("screening").value }, { step: true, keep: false }) ?? route());
  byId("bundle").addEventListener("change", () => address.write({ bundle: byId("bundle").value }, { step: true }) ?? route());
  byId("forget").addEventListener("click", () => { forgetToken(); location.reload(); });
  byId("skip").addEventListener("click", (event) => { event.preventDefault(); byId("content").focus(); });
  addEventListener("popstate", () => route().catch(fails));
  screenings = (await get("v1/screenings")).screenings;
  byId("forget").hidden = !hasToken();
  await route();
}

async function route() {
  const asked = address.read();
  const screening = screenings.find((one) => one.screening === asked.screening) ?? screenings[0];
  if (!screening) return showNothing();
  const bundle = screening.bundles.find((one) => one.folder === (asked.bundle ?? "")) ?? screening.bundles[0];
  showChoice(screening, bundle);
  const next = { screening: screening.screening, bundle: bundle.folder, slide: asked.slide ?? "", beside: asked.slide ? asked.beside ?? "" : "" };
  const isSame = at && JSON.stringify(next) === JSON.stringify(at);
  at = next;
  byId("trouble").hidden = true;
  byId("gallery").hidden = Boolean(asked.slide);
  byId("slide").hidden = !asked.slide;
  document.title = asked.slide ? `${asked.slide} · uadray` : "Slides · uadray";
  const list = () => gallery.show(screening.screening, bundle.folder);
  if (!asked.slide) {
    slide.close();
    return list();
  }
  if (isSame) return slide.restorePlace();
  list().then(() => queue.find(asked.slide)).then(slide.showPlace).catch(fails);
  await slide.show({ screenings, screening: screening.screening, bundle, slideId: asked.slide });
}

function openSlide(slideId) {
  address.write({ ...Object.fromEntries(PLACE.map((name) => [name, ""])), slide: slideId }, { step: true });
  route().then(slide.focusOn).catch(fails);
}

function leaves() {
  const { slide: slideId } = address.read();
  address.write(Object.fromEntries(PLACE.map((name) => [name, ""])), { step: true });
  route().then(() => gallery.focusOn(slideId)).catch(fails);
}

/** Which screening and bundle are shown, and what is known of them. */
function showChoice(screening, bundle) {
  const fill = (select, options, value) => {
    select.replaceChildren(...options.map(([key, words]) => element("option", { value: key }, words)));
    select.value = value;
    select.parentElement.hidden = options.length < 2;
  };
  fill(byId("screening"), screenings.map((one) => [one.screening, [one.screening, one.started].filter(Boolean).join(", ")]), screening.screening);
  fill(byId("bundle"), screening.bundles.map((one) => [one.folder, one.name]), bundle.folder);
  const calibration = bundle.calibration ?? {};
  const rows = [
    ["Bundle", bundle.name], ["Detector", bundle.detector], ["Calibration", calibration.id], ["Started", screening.started],
    ["Screening", screening.screening],
  ].filter(([, value]) => value);
  byId("run").replaceChildren(...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  byId("reading").lastElementChild.replaceChildren(...explanations(calibration));
}

function explanations({ n, alpha }) {
  const part = (title, ...text) => element("div", {}, element("h2", {}, title), element("p", {}, ...text));
  return [
    part("p-value", "Of slides known to be normal, about this share would score at least this high. Low means unusual; it does not say what is wrong, nor that the slide is diseased.",
      n ? ` Calibrated on ${n} normal slides, so no p-value is below ${number(1 / (n + 1))}.` : ""),
    alpha ? part(`False-alarm rate α = ${percent(alpha)}`, `A slide is called anomalous when its p-value is at most ${alpha}. Of normal slides like those it was calibrated on, about ${percent(alpha)} at most are called anomalous all the same.`) : "",
    part("Score", "How abnormal the detector finds a slide. Scores of one bundle compare with each other, not with those of another."),
  ];
}

function showNothing() {
  byId("gallery").hidden = false;
  byId("slide").hidden = true;
  byId("nothing").hidden = false;
  byId("nothing").textContent = "Nothing has been screened here yet. Send slides to POST /v1/slides.";
}

function askForToken(why) {
  const dialog = byId("token");
  const field = dialog.querySelector("input");
  byId("token-why").textContent = why;
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(field.value.trim() || null);
      field.value = "";
      byId("forget").hidden = false;
    }, { once: true });
  });
}

function fails(error) {
  if (error.name === "AbortError") return;
  byId("trouble").querySelector("p").textContent = sentence(error);
  byId("trouble").hidden = false;
}

begin().catch(fails);
