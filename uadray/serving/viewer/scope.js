// The picture of a slide: deep zoom, with heat laid over it as a second picture, and what is drawn on top.

import { pathOf, picture, sentence } from "./api.js";
import { element } from "./elements.js";
import { drawOverlay } from "./overlay.js";
import { drawScaleBar } from "./scale_bar.js";

const OSD = window.OpenSeadragon;
const STYLED = "data-openseadragon-mobile-css";
const CALM = window.matchMedia("(prefers-reduced-motion: reduce)");

/**
 * A pane with a slide in it.
 *
 * `image` is the slide's size and levels; `version` that of its decision; `title` what the pane is called; `onClick(x, y)` gets level-0 pixels;
 * `onMove(scope)` follows every movement, `onTouch(scope)` is told when a person turns to it; `onTrouble(text)` is told of tiles that do not come, and `null` once they do.
 */
export function openScope(parent, { screening, slideId, bundle, image, version, title, onClick, onMove, onTouch, onTrouble }) {
  const canvas = element("canvas", { class: "overlay", "aria-hidden": "true" });
  const bar = element("div", { class: "scale-bar", role: "img" });
  const stage = element("div", { class: "stage" });
  const navigator = element("div", { class: "overview", "aria-hidden": "true" });
  const cross = element("div", { class: "cross", "aria-hidden": "true" });
  const frame = element("div", {
    class: "scope", tabindex: 0, role: "application", "aria-roledescription": "slide viewer",
    "aria-label": `${title}. Arrow keys move, plus and minus zoom, Enter shows the tile at the cross, question mark lists all keys.`,
  }, stage, canvas, cross, navigator, bar);
  parent.append(element("figure", { class: "pane" }, element("figcaption", {}, title), frame));
  forbidInlineStyle();
  const closing = new AbortController();
  const viewer = new OSD.Viewer({
    element: stage, navigatorElement: navigator, showNavigator: true, showNavigationControl: false, drawer: "canvas",
    tileSources: tiles(image, (level, x, y) => pathOf(screening, slideId, `/image/${level}/${x}_${y}`, { v: image.version }), closing.signal),
    imageLoaderLimit: 6, keyboardNavEnabled: false, maxZoomPixelRatio: 4,
    minZoomImageRatio: 0.8, visibilityRatio: 0.3, animationTime: CALM.matches ? 0 : 0.5, blendTime: 0, preload: false,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: true },
    tileRetryMax: 2, tileRetryDelay: 1000, zoomPerClick: 1.6,
  });
  viewer.canvas.removeAttribute("tabindex");
  viewer.canvas.tabIndex = -1;
  const scope = { viewer, frame, image, screening, slideId, bundle, version, closed: closing.signal, shapes: [], heat: null, opacity: 1 };
  for (const kind of ["pointerdown", "wheel", "focusin"]) frame.addEventListener(kind, () => onTouch(scope), { capture: true, passive: true });
  viewer.addHandler("canvas-click", (event) => {
    if (!event.quick) return;
    frame.focus({ preventScroll: true });
    const at = viewer.viewport.pointFromPixel(event.position);
    onClick(at.x * image.width, at.y * image.width);
  });
  const redraw = () => {
    if (!viewer.world.getItemCount()) return;
    const origin = viewer.viewport.pixelFromPoint(new OSD.Point(0, 0), true);
    drawOverlay(canvas, scope, { origin, zoom: zoomOf(scope) });
    drawScaleBar(bar, image, zoomOf(scope));
  };
  viewer.addHandler("update-viewport", redraw);
  viewer.addHandler("viewport-change", () => onMove(scope));
  viewer.addHandler("tile-load-failed", (event) => closing.signal.aborted || onTrouble(`Parts of the picture are missing. ${event.message}`));
  viewer.addHandler("tile-loaded", () => onTrouble(null));
  viewer.addHandler("open", redraw);
  return Object.assign(scope, { redraw: () => viewer.forceRedraw(), close: () => {
    closing.abort();
    viewer.destroy();
  } });
}

/** OpenSeadragon adds an inline style, which the page's policy forbids, unless it finds one with this mark. */
function forbidInlineStyle() {
  if (document.querySelector(`style[${STYLED}]`)) return;
  const none = document.createElementNS("urn:uadray:none", "style");
  none.setAttribute(STYLED, "true");
  document.head.append(none);
}

/** Tiles of a slide's size and levels; each is fetched as all else is, with the token, until `closed` says stop. */
function tiles(image, url, closed) {
  const source = new OSD.TileSource({
    width: image.width, height: image.height, tileSize: image.tile_px, tileOverlap: 0,
    minLevel: image.min_level, maxLevel: image.max_level, ready: true,
  });
  return Object.assign(source, {
    getTileUrl: url,
    hasTransparency: () => true,
    downloadTileStart: (job) => {
      job.userData.stop = new AbortController();
      picture(job.src, { signal: AbortSignal.any([closed, job.userData.stop.signal]) })
        .then((blob) => job.finish(blob, null, "rasterBlob"))
        .catch((error) => closed.aborted || error.name === "AbortError" || job.fail(sentence(error), null));
    },
    downloadTileAbort: (job) => job.userData.stop.abort(),
  });
}

/** Lay heat over the slide, or other heat in its place: of scores from `threshold` on, null for all of them. */
export function layHeat(scope, { threshold }) {
  const { screening, slideId, bundle, image, viewer } = scope;
  const before = scope.heat;
  const query = { bundle, threshold, v: scope.version };
  viewer.addTiledImage({
    tileSource: tiles(image, (level, x, y) => pathOf(screening, slideId, `/heat/${level}/${x}_${y}`, query), scope.closed),
    opacity: scope.opacity,
    success: ({ item }) => {
      const isLate = scope.heat !== before;
      if (isLate) viewer.world.removeItem(item);
      else scope.heat = item;
      if (before && !isLate) item.whenFullyLoaded(() => viewer.world.getIndexOfItem(before) >= 0 && viewer.world.removeItem(before));
      item.setOpacity(scope.isHeatShown ? scope.opacity : 0);
    },
  });
}

/** How strong the heat is, and whether it is shown at all. */
export function showHeat(scope, isShown, opacity) {
  Object.assign(scope, { isHeatShown: isShown, opacity });
  scope.heat?.setOpacity(isShown ? opacity : 0);
}

// A slide is one unit wide in OpenSeadragon's viewport, and its upper left corner is the origin.

/** Level-0 pixels that are one pixel of the screen, now or, where it moves, at the end. */
export function zoomOf({ viewer, image }, isNow = true) {
  const { viewport } = viewer;
  return image.width / (viewport.getContainerSize().x * viewport.getZoom(isNow));
}

/** Middle of the view in level-0 pixels, and how many of them are one pixel of the screen. */
export function placeOfView(scope) {
  const middle = scope.viewer.viewport.getCenter(false).times(scope.image.width);
  return { x: middle.x, y: middle.y, zoom: zoomOf(scope, false) };
}

/** Go to a place: x, y in level-0 pixels, `zoom` of them a pixel of the screen, null to leave it. */
export function goTo({ viewer, image }, { x, y, zoom = null }, isAtOnce = CALM.matches) {
  const { viewport } = viewer;
  if (zoom !== null) viewport.zoomTo(image.width / (viewport.getContainerSize().x * zoom), null, isAtOnce);
  viewport.panTo(new OSD.Point(x, y).divide(image.width), isAtOnce);
}

/** Bring a pane to the place of another, at once. */
export function follow(scope, leader) {
  const [to, from] = [scope.viewer.viewport, leader.viewer.viewport];
  to.zoomTo(from.getZoom(true), null, true);
  to.panTo(from.getCenter(true), true);
}

/** Move by shares of the view; zoom by a factor; show it whole. */
export function move({ viewer }, right, down) {
  const { width, height } = viewer.viewport.getBounds();
  viewer.viewport.panBy(new OSD.Point(right * width, down * height), CALM.matches);
  viewer.viewport.applyConstraints();
}

export function zoomBy({ viewer }, factor) {
  viewer.viewport.zoomBy(factor, null, CALM.matches);
  viewer.viewport.applyConstraints();
}

export function showWhole({ viewer }) {
  viewer.viewport.goHome(CALM.matches);
}
