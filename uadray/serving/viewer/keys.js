// Single keys, and the dialog that lists them. They can be switched off, for those who dictate to their browser.

import { byId, element } from "./elements.js";

const OFF = "uadray-keys-off";
const LIST = [
  ["j", "next slide; among the slides ↓ and → too"], ["k", "previous slide; among the slides ↑ and ← too"], ["o or Enter", "open the slide"], ["g", "back to the slides"],
  ["f", "next flag: follow up, benign, artefact, anomaly, none"], ["n", "write a note; Ctrl+Enter saves it"],
  ["h", "heat on or off"], ["m", "tissue and flagged regions on or off"], ["[ and ]", "heat weaker or stronger"],
  ["t", "next marked tile; T the one before"], ["arrows, + − 0", "move, zoom, whole slide (in the picture)"],
  ["Enter", "the tile at the cross (in the picture)"], ["b", "another bundle beside it, or not"], ["?", "this list"],
];

const MOVES = "input, .panel, [role=slider]";
/** Where the browser itself does something with a key. */
const BROWSERS = {
  Enter: "a, button, summary, input", ArrowUp: MOVES, ArrowDown: MOVES, ArrowLeft: MOVES, ArrowRight: MOVES,
};

/** Hand keys to what is shown: `actions()` gives key -> function. */
export function listen(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]") || isTyping(event.target)) return;
    act(event, event.key);
  });
  document.addEventListener("click", (event) => {
    const key = event.target.closest("[data-key]")?.dataset.key;
    if (key) (key === "?" ? help : actions()[key])?.();
  });

  function act(event, key) {
    if (BROWSERS[key] && event.target.closest(BROWSERS[key])) return;
    if (key.length === 1 && localStorage.getItem(OFF)) return;
    const action = key === "?" ? help : actions()[key];
    if (!action) return;
    event.preventDefault();
    action();
  }
}

/** Fill the dialog of the keys. */
export function prepareHelp() {
  byId("help").querySelector("tbody").append(...LIST.map(([keys, what]) => element("tr", {},
    element("th", { scope: "row" }, element("kbd", {}, keys)), element("td", {}, what))));
  const on = byId("keys-on");
  on.checked = !localStorage.getItem(OFF);
  on.addEventListener("change", () => (on.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1")));
}

function help() {
  byId("help").showModal();
}

function isTyping(target) {
  return target.matches("textarea, select, input:not([type=checkbox], [type=radio], [type=range])");
}
