"""Reviewers' notes: conditional, with their history, plain."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_screening import STRANGE_ID

from uadray.serving.views.notes import MAX_HISTORY, MAX_TEXT, ConflictError, Note, Notes, new_note, plain_text
from uadray.serving.views.screenings import Screening

MAIN = Screening("main", "unused", "", (), None, None, None)
OTHER = replace(MAIN, name="0123456789abcdef")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.setattr("uadray.serving.views.notes.PATIENCE", 0)
    return Notes(str(tmp_path), fresh_s=0)


def test_a_note_is_kept_with_who_and_what_was_before(notes: Notes, tmp_path: Path) -> None:
    assert notes.get(MAIN, STRANGE_ID) == (None, None)
    first = notes.put(MAIN, STRANGE_ID, new_note("follow_up", "look here", who="ann"), etag=None)
    second = notes.put(MAIN, STRANGE_ID, new_note("benign", "a follicle", who="bob"), etag=first)
    note, etag = notes.get(MAIN, STRANGE_ID)
    assert etag == second != first
    assert note is not None
    assert (note.flag, note.text, note.who) == ("benign", "a follicle", "bob")
    (path,) = (tmp_path / "notes" / "main").glob("*.json")
    (earlier,) = json.loads(path.read_text())["history"]
    assert (earlier["flag"], earlier["text"], earlier["who"]) == ("follow_up", "look here", "ann")
    assert notes.get(OTHER, STRANGE_ID) == (None, None)


@pytest.mark.parametrize("etag", [None, "0-0", ""])
def test_who_has_not_seen_the_note_does_not_replace_it(notes: Notes, etag: str | None) -> None:
    notes.put(MAIN, "a", new_note("benign", "mine", who="ann"), etag=None)
    with pytest.raises(ConflictError):
        notes.put(MAIN, "a", new_note("", "yours", who="bob"), etag=etag)
    note, _ = notes.get(MAIN, "a")
    assert note is not None
    assert note.text == "mine"


def test_of_many_writers_at_once_one_is_first(notes: Notes) -> None:
    def write(number: int) -> bool:
        try:
            notes.put(MAIN, "a", new_note("", str(number), who="all"), etag=None)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(32))) == 1


def test_history_is_bounded(notes: Notes, tmp_path: Path) -> None:
    etag = None
    for number in range(MAX_HISTORY + 5):
        etag = notes.put(MAIN, "a", new_note("", str(number), who="ann"), etag=etag)
    history = json.loads((tmp_path / "notes" / "main" / "a.json").read_text())["history"]
    assert [each["text"] for each in history] == [str(n) for n in range(MAX_HISTORY + 3, 3, -1)]


def test_the_listing_follows_and_leaves_out_what_is_no_note(notes: Notes, tmp_path: Path) -> None:
    assert notes.of(MAIN) == {}
    etag = notes.put(MAIN, "a", new_note("benign", "x", who="ann"), etag=None)
    notes.put(MAIN, STRANGE_ID, new_note("anomaly", "y", who="ann"), etag=None)
    (tmp_path / "notes" / "main" / "bad.json").write_text("[1")
    (tmp_path / "notes" / "main" / "odd.json").write_text('{"flag": "<b>", "text": ["x"], "who": null}')
    assert {key: note.flag for key, note in notes.of(MAIN).items()} == {"a": "benign", STRANGE_ID: "anomaly", "odd": ""}
    notes.put(MAIN, "a", new_note("artefact", "z", who="ann"), etag=etag)
    (tmp_path / "notes" / "main" / f"{STRANGE_ID}.json").unlink()
    assert {key: note.flag for key, note in notes.of(MAIN).items()} == {"a": "artefact", "odd": ""}


@given(st.text())
def test_texts_become_plain_and_stay_so(text: str) -> None:
    note = new_note("", text, who="ann")
    assert len(note.text) <= MAX_TEXT
    assert plain_text(note.text) == note.text.strip()
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x202A <= ord(c) <= 0x202E for c in note.text)
    assert isinstance(json.dumps(vars(note), ensure_ascii=False).encode(), bytes)


def test_texts_keep_what_people_write() -> None:
    text = "Größe 3 µm: <b>siehe</b> „oben“ 見て\n\tZeile zwei"
    note = new_note("artefact", text, who="ann")
    assert note == Note("artefact", text, "ann", note.when)
