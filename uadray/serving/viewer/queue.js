// The slides of a screening in the order they are looked at: a page at a time from the endpoint, stepped through.

import { get, pathOf } from "./api.js";

const PAGE = 48;
export const FILTERS = ["q", "decision", "state", "reason", "site", "scanner", "flag", "min_score", "max_score", "min_p", "max_p"];

let wanted = null;
let cursor = null;
let loading = null;
let stop = new AbortController();
const listeners = [];

/** What is known of the list: its slides so far, and how many there are. */
export const queue = { slides: [], total: 0, facets: {}, isComplete: false };

/** Be told of slides that came: `(slides, isFirstPage)`. */
export function onSlides(listener) {
  listeners.push(listener);
}

/** Start a list: screening, bundle, sort, order and filters. The same again does nothing. */
export async function start(query) {
  const text = JSON.stringify(query);
  if (wanted === text) return loading;
  restart();
  wanted = text;
  return more();
}

/** Forget the list, so that the next start asks again. */
export function restart() {
  stop.abort();
  stop = new AbortController();
  [wanted, cursor, loading] = [null, null, null];
  Object.assign(queue, { slides: [], total: 0, facets: {}, isComplete: false });
}

/** Load the next page, if there is one. */
export function more() {
  if (queue.isComplete) return Promise.resolve();
  loading ??= page(wanted, stop.signal).finally(() => { loading = null; });
  return loading;
}

async function page(asked, signal) {
  const { screening, ...query } = JSON.parse(asked);
  const isFirst = cursor === null;
  const answer = await get(pathOf(screening, null, "", { ...query, limit: PAGE, cursor }), { signal });
  if (asked !== wanted) return;
  cursor = answer.next_cursor;
  queue.slides.push(...answer.slides);
  Object.assign(queue, { total: answer.total, facets: answer.facets ?? {}, isComplete: !cursor });
  for (const listener of listeners) listener(answer.slides, isFirst);
}

/** The place of a slide in the list, from 0; -1 where it is not among those that came. */
export function placeOf(slideId) {
  return queue.slides.findIndex((slide) => slide.slide_id === slideId);
}

/** Load pages until a slide is among them, or so many have come. */
export async function find(slideId, pages = 40) {
  for (let page = 0; page < pages && placeOf(slideId) < 0 && !queue.isComplete; page += 1) await more();
}

/** The slide so many places after another, or null at an end of the list. */
export async function neighbour(slideId, steps) {
  const place = placeOf(slideId) + steps;
  while (place >= queue.slides.length && !queue.isComplete) await more();
  return queue.slides[place] ?? null;
}
