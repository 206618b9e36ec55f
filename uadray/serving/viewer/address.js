// The address bar: what is looked at, so that an address restores it. It lies behind `#` and never leaves the browser.

/** What the address says: name -> text. */
export function read() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

/** Change what the address says; null or "" takes a name out. `step` makes it a step that Back undoes. */
export function write(changes, { step = false, keep = true } = {}) {
  const next = Object.entries({ ...(keep ? read() : {}), ...changes })
    .filter(([, value]) => value !== null && value !== undefined && value !== "");
  const hash = `#${new URLSearchParams(next)}`;
  if (hash === location.hash) return;
  history[step ? "pushState" : "replaceState"](null, "", hash);
}

/** A number of the address, or null. */
export function numberOf(text) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value : null;
}
