"use strict";
// What is known of the slides: which are shown, in which order, and how many there are of each kind.

/** The address bar: what is shown, so that an address restores it. It lies behind # and never leaves the browser. */
const address = {
  read: () => Object.fromEntries(new URLSearchParams(location.hash.slice(1))),
  write(changes) {
    const next = Object.entries({ ...address.read(), ...changes }).filter(([, value]) => value !== null);
    const hash = `#${new URLSearchParams(next)}`;
    if (hash === location.hash || (hash === "#" && location.hash === "")) return;
    history.replaceState(null, "", hash === "#" ? location.pathname + location.search : hash);
  },
};

const FACETS = { site: "Site", scanner: "Scanner", stain: "Stain", reason: "Reason", note: "Used for", calibration: "Calibration" };
const NONE = -1;
const SORTED_DOWN = ["score", "size"];

/** The slides of a page by columns, see `index_of`; a slide is the place in the ranking, from 0. */
function modelOf({ groups, index }) {
  const n = index.n;
  const at = (words) => ({ words: words.words, at: words.at });
  const facets = [{ key: "show", words: Object.keys(groups), at: index.group }];
  for (const key of Object.keys(FACETS).filter((key) => key in index)) facets.push({ key, ...at(index[key]) });
  if (index.holds.length) {
    const places = index.holds.map((holds) => (holds === null ? NONE : Number(!holds)));
    facets.push({ key: "calibration", words: ["holds", "does not hold"], at: places });
  }
  for (const facet of facets) facet.wanted = null;
  const lower = index.id.map((id) => id.toLowerCase());
  const columns = {
    group: index.group, p: index.p_value, score: index.score, coverage: index.coverage, q: index.q_value,
    size: { length: n, at: (i) => (index.width_level0_px[i] === null || index.height_level0_px[i] === null ? null : index.width_level0_px[i] * index.height_level0_px[i]) },
  };
  const model = {
    n, index, facets, find: "", q: null, sort: "rank", down: false, all: Uint32Array.from({ length: n }, (_, i) => i),
    matches: new Uint8Array(n), order: [], places: new Int32Array(n),
  };

  /** Slides by a column; what is not known comes last, either way, and equals stay in the order of the ranking. */
  model.sortBy = (key, down) => {
    Object.assign(model, { sort: key, down });
    model.all = Uint32Array.from({ length: n }, (_, i) => (key === "rank" && down ? n - 1 - i : i));
    if (key === "id") {
      const keys = lower.map((id) => id.replace(/\d+/g, (digits) => digits.padStart(12, "0")));
      const sign = down ? -1 : 1;
      model.all.sort((a, b) => (keys[a] < keys[b] ? -sign : keys[a] > keys[b] ? sign : a - b));
    } else if (key in columns) {
      const value = (i) => columns[key].at(i);
      const keys = Float64Array.from({ length: n }, (_, i) => (value(i) === null ? Infinity : down ? -value(i) : value(i)));
      model.all.sort((a, b) => keys[a] - keys[b] || a - b);
    }
  };

  /** Find the slides that are wanted, and count for each facet what choosing another value would show. */
  model.refresh = () => {
    const wanted = model.find.trim().toLowerCase();
    const chosen = facets.filter((facet) => facet.wanted !== null);
    for (const facet of facets) facet.counts = new Uint32Array(facet.words.length + 1); // the last one is of none
    const count = (facet, i) => facet.counts[facet.at[i] === NONE ? facet.words.length : facet.at[i]]++;
    model.matches.fill(0);
    for (let i = 0; i < n; i += 1) {
      if (wanted && !lower[i].includes(wanted)) continue;
      if (model.q !== null && !(index.q_value[i] !== null && index.q_value[i] <= model.q)) continue;
      let against = null;
      let several = false;
      for (const facet of chosen) {
        if (facet.at[i] === facet.wanted) continue;
        several = against !== null;
        against = facet;
        if (several) break;
      }
      if (several) continue;
      if (against) {
        count(against, i);
        continue;
      }
      model.matches[i] = 1;
      for (const facet of facets) count(facet, i);
    }
    model.order = model.all.filter((i) => model.matches[i]);
    model.places.fill(NONE);
    model.order.forEach((i, place) => { model.places[i] = place; });
  };

  model.facet = (key) => facets.find((facet) => facet.key === key);
  model.isFiltered = () => model.find !== "" || model.q !== null || facets.some((facet) => facet.wanted !== null);
  model.clear = () => {
    Object.assign(model, { find: "", q: null });
    for (const facet of facets) facet.wanted = null;
  };
  model.slideOf = (id) => index.id.indexOf(id);

  /** What the address bar says of all this, and back. */
  model.told = () => ({
    ...Object.fromEntries(facets.map(({ key, wanted, words }) => [key, wanted === null ? null : wanted === NONE ? "" : words[wanted]])),
    find: model.find || null, q: model.q === null ? null : String(model.q),
    sort: model.sort === "rank" && !model.down ? null : model.sort, down: model.down ? "1" : null,
  });
  model.take = (told) => {
    for (const facet of facets) {
      const text = told[facet.key];
      const place = text === undefined ? null : text === "" ? NONE : facet.words.indexOf(text);
      facet.wanted = place === NONE && text !== "" ? null : place;
    }
    const q = Number.parseFloat(told.q);
    Object.assign(model, { find: told.find ?? "", q: Number.isFinite(q) ? q : null });
    model.sortBy(told.sort in columns || told.sort === "id" ? told.sort : "rank", told.down === "1");
  };
  return model;
}
