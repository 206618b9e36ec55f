// A slide as the server writes it into a page that has all of them, built from its columns and its details.

const UNKNOWN = "–";
const MARKS = {
  anomalous: ["path", { d: "M8 1.5 15.2 14.5H.8Z", fill: "currentColor" }],
  normal: ["circle", { cx: 8, cy: 8, r: 5.6, fill: "none", stroke: "currentColor", "stroke-width": 2.4 }],
  not_assessable: ["path", { d: "M8 1.4 14.6 8 8 14.6 1.4 8Z", fill: "none", stroke: "currentColor", "stroke-width": 2.4 }],
  failed: ["path", { d: "m2.5 2.5 11 11m0-11-11 11", fill: "none", stroke: "currentColor", "stroke-width": 3.4 }],
};

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const element = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const drawn = (name, attributes, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

const grouped = (value) => (value === null ? UNKNOWN : String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f"));

/** Significant digits without an exponent where people can read it. */
function digits(value) {
  if (value === null) return UNKNOWN;
  const whole = Math.abs(Math.round(value));
  if (whole >= 1000 && whole < 1e7) return grouped(Math.round(value));
  const [mantissa, power] = value.toExponential(2).split("e");
  const exponent = Number(power);
  if (exponent >= -4 && exponent < 3) return value.toFixed(2 - exponent);
  return `${mantissa}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

/** A share as per cent, never rounded up to 100 or down to 0. */
function percent(value) {
  if (value === null) return UNKNOWN;
  const rest = 100 - value * 100;
  return rest > 0 && rest < 0.1 ? "99.9 %" : `${Number((value * 100).toPrecision(value < 0.1 ? 2 : 3))} %`;
}

/** A value of an address, as the server writes it. */
const quoted = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);

/** What makes rows and bodies of these slides. */
function rowsOf({ index, groups, low, high, viewer, has_cells: hasCells, tile_px: tilePx, small }) {
  const names = Object.keys(groups);
  const word = (column, i) => (column.at[i] < 0 ? null : column.words[column.at[i]]);
  const mark = (group) => {
    const [name, attributes] = MARKS[group];
    return drawn("svg", { class: "mark", viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" }, drawn(name, attributes));
  };
  const onBar = (value) => (3 + (94 * (value - low)) / (high > low ? high - low : 1)).toFixed(2);

  const scored = (i) => {
    const [score, threshold, coverage, q] = [index.score[i], index.threshold[i], index.coverage[i], index.q_value[i]];
    const bar = score === null || threshold === null ? "" : drawn("svg", { class: "bar", viewBox: "0 0 100 12", preserveAspectRatio: "none", width: 100, height: 12, "aria-hidden": "true" },
      drawn("path", { d: "M0 6H100", class: "axis" }), drawn("path", { d: `M${onBar(score)} 6H0`, class: "value" }), drawn("path", { d: `M${onBar(threshold)} 0V12`, class: "limit" }));
    return [
      element("span", { class: "p number" }, digits(index.p_value[i]), q === null ? "" : element("i", {}, `q ${digits(q)}`)),
      element("span", { class: "score" }, element("span", { class: "number" }, element("b", {}, digits(score)), " ", element("i", {}, `/ ${digits(threshold)}`)), bar),
      element("span", { class: `coverage number${coverage !== null && coverage < 1 ? " short" : ""}` }, `${percent(coverage)} `, element("i", {}, `${grouped(index.n_scored[i])} of ${grouped(index.n_good[i])}`)),
    ];
  };
  const why = (reason, message) => [element("b", {}, reason || "no reason given"), ` ${message ?? ""}`];
  const size = (i) => {
    const [width, height, mpp] = [index.width_level0_px[i], index.height_level0_px[i], index.mpp_level0[i]];
    if (width === null || height === null) return [UNKNOWN];
    return [`${grouped(width)} × ${grouped(height)} px`, mpp === null ? "" : element("i", {}, `${digits(mpp)} µm/px`)];
  };

  /** The small picture of a slide, without its address: that is set where it stays in view. */
  const preview = (i) => {
    if (small.sheet[i] < 0) return "";
    const [width, height] = small.side;
    const [x, y] = [small.cell[i] % small.columns, Math.floor(small.cell[i] / small.columns)];
    const image = element("img", { width, height, alt: "", "data-src": small.sheets[small.sheet[i]] });
    image.style.objectFit = "none";
    image.style.objectPosition = `-${x * width}px -${y * height}px`;
    return image;
  };

  const row = (i) => {
    const group = names[index.group[i]];
    const isScored = group === "anomalous" || group === "normal";
    const note = word(index.note, i);
    const origin = [word(index.site, i), word(index.scanner, i)].filter(Boolean).join(" · ");
    return element("details", { class: `slide ${group}`, "data-group": group, "data-rank": i + 1, "data-id": index.id[i] },
      element("summary", { class: "row" },
        element("span", { class: "rank number" }, String(i + 1)),
        element("span", { class: "id" }, element("span", { class: "name" }, index.id[i]), note ? element("span", { class: "note-tag" }, note) : "",
          index.holds[i] === false ? element("span", { class: "note-tag drifted" }, "calibration does not hold") : "",
          origin ? element("i", { class: "origin" }, origin) : ""),
        element("span", { class: "group" }, element("span", { class: "badge" }, mark(group), ` ${groups[group]}`)),
        ...(isScored ? scored(i) : [element("span", { class: "why" }, ...why(word(index.reason, i), word(index.message, i)))]),
        element("span", { class: "size number" }, ...size(i)),
        element("span", { class: "preview" }, preview(i))),
      element("div", { class: "body" }));
  };

  const markers = (i, tiles) => drawn("svg", { class: "markers", viewBox: `0 0 ${index.width_level0_px[i]} ${index.height_level0_px[i]}`, "aria-hidden": "true" },
    ...tiles.map(({ middle, marker: [x, y, side], label, text: [line, height] }, place) => drawn("g", { "data-tile": place + 1 },
      drawn("path", { d: `M${middle[0]} ${middle[1]}L${label[0]} ${label[1]}` }), drawn("rect", { x, y, width: side, height: side }),
      drawn("text", { x: label[0], y: line, "font-size": height }, String(place + 1)))).reverse());
  const picture = ([width, height], src, caption, alt, over) => element("figure", {},
    element("a", { href: src, target: "_blank", title: "Enlarge" }, element("img", { src, loading: "lazy", width, height, alt }), over),
    element("figcaption", {}, caption));
  const tilePicture = (src, kind, place) => (src === null ? element("span", { class: "none" }) : element("a", { href: src, target: "_blank" },
    element("img", { src, loading: "lazy", width: tilePx, height: tilePx, alt: `${kind} ${place}` })));
  const tilePictures = ({ tiles, kinds, base }) => element("div", { class: "tiles" },
    element("div", { class: "labels" }, element("span", { class: "top" }, "Most abnormal"), ...kinds.map((kind) => element("span", { class: "label" }, kind))),
    ...tiles.map((tile, place) => element("figure", { class: "tile", "data-tile": place + 1 },
      element("figcaption", {}, element("b", {}, String(place + 1)), ` score ${digits(tile.score)}`),
      ...tile.pictures.map((rest, at) => tilePicture(rest === null ? null : base + rest, kinds[at], place + 1)),
      element("small", {}, ...tile.lines.flatMap((line, at) => (at ? [element("br", {}), line] : [line]))))));

  /** What an open slide shows. */
  const body = (i, details) => {
    const { thumbnail, heatmap, side, tiles = [], words, message, uri } = details;
    const isScored = index.group[i] < 2;
    const id = index.id[i];
    const pictures = [
      thumbnail === null ? null : picture(side, thumbnail, `Slide${tiles.length ? ", its most abnormal tiles numbered" : ""}`, `Thumbnail of ${id}`, tiles.length ? markers(i, tiles) : ""),
      heatmap === null ? null : picture(side, heatmap, hasCells ? "Scores of tiles and of their parts" : "Tile scores", `Heatmap of ${id}`, ""),
    ].filter(Boolean);
    const rest = element("div", { class: "rest" },
      tiles.length ? tilePictures(details) : "",
      element("p", { class: "words" }, ...words.map((text) => (typeof text === "string" ? text : element("b", {}, text[0])))),
      isScored ? "" : element("p", { class: "message" }, ...why(word(index.reason, i), message)),
      element("p", { class: "uri" }, uri),
      viewer === null ? "" : element("p", { class: "links" }, element("a", { class: "viewer", href: viewer + quoted(id), target: "_blank", rel: "noopener noreferrer" }, "Open in the viewer")));
    return [thumbnail !== null || tiles.length ? element("div", { class: "pictures" }, ...pictures) : "", rest];
  };

  return { row, body };
}
