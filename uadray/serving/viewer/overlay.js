// What is drawn over a slide: tissue, flagged regions, marked tiles and the chosen one. Their places are level-0 pixels.

export const STYLES = {
  tissue: { stroke: "#0b6b3a", width: 2, halo: true },
  region: { stroke: "#7a2ea0", width: 2, dash: [6, 4], fill: "rgb(122 46 160 / 12%)", halo: true },
  mark: { stroke: "#0b1f33", width: 2, halo: true },
  chosen: { stroke: "#0a5cd6", width: 3, halo: true },
};

/** How much larger than usual things are on this screen. */
export function scaleOfScreen() {
  return Number.parseFloat(getComputedStyle(document.documentElement).fontSize) / 14;
}

/** Outlines of GeoJSON as shapes: `{path, kind, layer, name}`; tissue is a mask, every other class a flagged region. */
export function outlines(geojson) {
  return (geojson?.features ?? []).filter((feature) => feature.geometry).map(({ geometry, properties }) => {
    const name = String(properties?.class ?? "").toLowerCase().replaceAll("_", " ") || "flagged";
    const isTissue = name === "tissue";
    return { path: pathOfGeometry(geometry), kind: isTissue ? "tissue" : "region", layer: isTissue ? "masks" : "regions", name };
  });
}

/** A tile as a shape, with a number where it has one. */
export function box({ x, y, width, height }, kind, layer, label = "") {
  const path = new Path2D();
  path.rect(x, y, width, height);
  return { path, kind, layer, label, x, y, width, height };
}

/** Draw the shapes whose layers are shown: the slide's corner is at `origin`, and a pixel is `zoom` level-0 pixels. */
export function drawOverlay(canvas, { shapes, layers = new Set() }, { origin, zoom }) {
  const ratio = window.devicePixelRatio || 1;
  const unit = ratio * scaleOfScreen();
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  const place = new DOMMatrix([ratio / zoom, 0, 0, ratio / zoom, origin.x * ratio, origin.y * ratio]);
  for (const shape of shapes) if (layers.has(shape.layer)) drawShape(context, shape, place, unit);
}

/** `unit` is how many pixels of the canvas a line one thick has. */
function drawShape(context, shape, place, unit) {
  const style = STYLES[shape.kind];
  const path = new Path2D();
  path.addPath(shape.path, place);
  context.setLineDash((style.dash ?? []).map((length) => length * unit));
  if (style.fill) {
    context.fillStyle = style.fill;
    context.fill(path, "evenodd");
  }
  if (style.halo) stroke(context, path, "#fff", (style.width + 2.5) * unit);
  stroke(context, path, style.stroke, style.width * unit);
  if (shape.label) drawLabel(context, shape, place, unit);
}

function stroke(context, path, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}

/** The number of a tile at its upper left corner, of one size however far it is. */
function drawLabel(context, { x, y, label }, place, unit) {
  const at = place.transformPoint(new DOMPoint(x, y));
  const size = 18 * unit;
  context.fillStyle = "#0b1f33";
  context.fillRect(at.x - size, at.y - size / 2, size, size);
  context.fillStyle = "#fff";
  context.font = `600 ${12 * unit}px sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(label, at.x - size / 2, at.y + unit);
}

function pathOfGeometry({ type, coordinates, geometries }) {
  const path = new Path2D();
  if (type === "GeometryCollection") geometries.forEach((one) => path.addPath(pathOfGeometry(one)));
  const polygons = { Polygon: [coordinates], MultiPolygon: coordinates }[type] ?? [];
  for (const ring of polygons.flat()) {
    ring.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}
