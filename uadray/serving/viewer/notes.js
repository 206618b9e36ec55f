// A reviewer's flag and note: written on condition that nobody was first, so that no note is lost.

import { get, pathOf, put, Refused, sentence } from "./api.js";
import { announce, element } from "./elements.js";
import { FLAGS, moment } from "./words.js";

const ORDER = Object.keys(FLAGS);

/** A flag as a label, or nothing. */
export function flagTag(note) {
  const text = [note?.flag ? FLAGS[note.flag] ?? note.flag : "", note?.text ? "note" : ""].filter(Boolean).join(", ");
  return text ? element("span", { class: "note-tag" }, text) : "";
}

/**
 * The form of a slide's note: `element`, and `cycle`, `focus` for the keys.
 *
 * `note` and `etag` are what its reader has seen; `onSaved` is told what stands there now, `onDone` that its writer,
 * by the keyboard, is ready to go on.
 */
export function noteForm({ screening, slideId, note, etag, onSaved, onDone }) {
  const path = pathOf(screening, slideId, "/note");
  const state = { note: note ?? { flag: "", text: "" }, etag: etag ?? null, saving: null };
  const flags = element("fieldset", { class: "flags" }, element("legend", {}, "Flag"),
    ORDER.map((flag) => element("label", {}, element("input", { type: "radio", name: "flag", value: flag }), FLAGS[flag])));
  const text = element("textarea", { name: "text", rows: 3, maxlength: 2000 });
  const who = element("p", { class: "soft who" });
  const said = element("p", { class: "said", role: "status" });
  const conflict = element("div", { class: "conflict", role: "alert", hidden: true });
  const form = element("form", { class: "note-form", onsubmit: submit, onkeydown: saveByKey },
    flags, element("label", { class: "text" }, element("b", {}, "Note"), text), element("div", { class: "row-end" }, who, element("button", { class: "main" }, "Save")), said, conflict);
  show(state.note);

  function show(shown) {
    for (const input of flags.querySelectorAll("input")) input.checked = input.value === (shown.flag ?? "");
    text.value = shown.text ?? "";
    stamp(shown);
  }

  function stamp(shown) {
    who.textContent = shown.who ? `${shown.who}, ${moment(shown.when)}` : "";
  }

  function written() {
    return { flag: form.elements.flag.value, text: text.value };
  }

  function submit(event) {
    event.preventDefault();
    save();
  }

  async function saveByKey(event) {
    if (event.key === "Escape" && !form.closest("dialog")) {
      event.preventDefault();
      onDone();
    }
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    if (await save()) onDone();
  }

  function focus() {
    text.focus();
    text.setSelectionRange(text.value.length, text.value.length);
  }

  /** Write, one after another: each needs the tag that the one before it left. Tells whether it was saved. */
  function save() {
    state.saving = (state.saving ?? Promise.resolve()).then(write);
    return state.saving;
  }

  async function write() {
    const mine = written();
    said.textContent = "Saving …";
    try {
      const answer = await put(path, mine, state.etag);
      taken(answer.note ?? mine, answer.etag);
      said.textContent = "Saved.";
      return true;
    } catch (error) {
      said.textContent = "";
      if (error instanceof Refused && error.status === 412) await ask(mine);
      else said.textContent = `Not saved. ${sentence(error)}`;
      return false;
    }
  }

  function taken(now, tag) {
    Object.assign(state, { note: now, etag: tag });
    if (conflict.contains(document.activeElement)) focus();
    conflict.hidden = true;
    stamp(now);
    onSaved(now, tag);
  }

  /** Somebody else was first: show theirs, and let the reader decide. */
  async function ask(mine) {
    const there = await get(pathOf(screening, slideId));
    const theirs = there.note ?? { flag: "", text: "" };
    const decide = (label, act) => element("button", { type: "button", onclick: act }, label);
    conflict.replaceChildren(
      element("p", {}, element("b", {}, "Not saved: somebody else wrote here meanwhile.")),
      element("p", {}, `${theirs.who ?? "unknown"}, ${moment(theirs.when)}: ${FLAGS[theirs.flag] ?? theirs.flag}`),
      element("blockquote", {}, theirs.text || "(no text)"),
      element("div", { class: "row-end" },
        decide("Keep theirs", () => { show(theirs); taken(theirs, there.note_etag); said.textContent = "Theirs is kept."; }),
        decide("Put mine in its place", () => { state.etag = there.note_etag; save(); }),
        decide("Join both", () => {
          state.etag = there.note_etag;
          text.value = [theirs.text, mine.text].filter(Boolean).join("\n");
          save();
        })));
    conflict.hidden = false;
    conflict.querySelector("button").focus();
  }

  /** The next flag, saved at once. */
  function cycle() {
    const at = ORDER.indexOf(written().flag);
    const next = ORDER[(at + 1) % ORDER.length];
    for (const input of flags.querySelectorAll("input")) input.checked = input.value === next;
    announce(`Flag: ${FLAGS[next]}`);
    return save();
  }

  return { element: form, cycle, save, focus, isChanged: () => isChanged(state.note, written()) };
}

function isChanged(before, now) {
  return (before.flag ?? "") !== now.flag || (before.text ?? "") !== now.text;
}
