"""What people see of a screening without dashboards."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import made_up_ledger as made
from rich.console import Console

from uadray.monitoring.terminal import facts, view
from uadray.monitoring.watched import WatchedFolder


def _seen(folder: WatchedFolder, width: int = 100) -> str:
    screen = Console(file=io.StringIO(), width=width, record=True)
    screen.print(view(folder.name, folder.current, folder.problem))
    return screen.export_text()


def _archive(out: str) -> WatchedFolder:
    made.write_run(out)
    rows = [made.scored(f"s{i}", p=0.03 if i < 2 else 0.5, ago_s=i) for i in range(30)]
    made.write_decisions(out, [*rows, made.unscored("f", "failed", "no_mpp")])
    since = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    stages = {"decode": 60.0, "read": 140.0}
    made.write_progress(
        out, "alive1", ago_s=0, slides=100, open=69, slides_now=20, oldest_open=since, note="the store", stages=stages
    )  # fmt: skip
    made.write_progress(out, "dead1", ago_s=900, slides=100, open=90, slides_now=11)
    folder = WatchedFolder("archive", out)
    folder.refresh()
    return folder


def test_the_view_says_how_far_it_is_and_what_is_wrong(tmp_path: Path) -> None:
    text = _seen(_archive(str(tmp_path)))
    for part in (
        "archive  made-up  01234567", "31 %  31 of 100 slides, 69 open", "0.10 slides/s", "12 min left",
        "the oldest waits for 2.0 h", "3.0 s of work a slide", "the store", "no_mpp",
        "1 driver is dead (dead1): the others take over what it held", "nothing is told of drift",
    ):  # fmt: skip
        assert part in text, part
    rows = [line.split() for line in text.splitlines()]
    assert ["scored", "30", "read", "70", "%"] in [[word for word in row if word.isascii()] for row in rows]
    assert any(row[1:4] == ["anomalous", "2", "│"] for row in rows)
    assert any({"alive1", "alive", "20"} <= set(row) for row in rows)


def test_the_view_fits_a_narrow_terminal(tmp_path: Path) -> None:
    folder = _archive(str(tmp_path))
    for width in (60, 80):
        assert max(map(len, _seen(folder, width).splitlines())) <= width


def test_what_stands_still_is_said(tmp_path: Path) -> None:
    """Nobody at work on what is open; then a folder that cannot be read; and one of an older version."""
    out = str(tmp_path)
    made.write_run(out)
    made.write_progress(out, "a", ended="failed: the disk is full", open=4, slides=10)
    folder = WatchedFolder("x", out)
    folder.refresh()
    text = _seen(folder)
    assert "nothing moves" in text
    assert "4 slides are open, and nobody is at work on them" in text
    assert "the last driver failed: the disk is full" in text
    gone = WatchedFolder("y", str(tmp_path / "gone"))
    gone.refresh()
    assert "cannot be read" in _seen(gone)
    assert [line["problem"] for line in facts("y", gone.current, gone.problem)] == [gone.problem]
    Path(out, "progress.json").unlink()
    folder.refresh()
    assert "how many there are in all, nobody has said" in _seen(folder)


def test_the_line_has_what_the_view_shows(tmp_path: Path) -> None:
    folder = _archive(str(tmp_path))
    (line,) = facts(folder.name, folder.current, folder.problem)
    line = json.loads(json.dumps(line))
    assert (line["screening"], line["slides"], line["decided"], line["open"]) == ("archive", 100, 31, 69)
    assert line["per_second"] == round(30 / 300, 4)
    assert line["seconds_left"] == 690
    assert line["drivers"] == {"alive": 1, "dead": 1}
    assert line["slowest_stage"] == "read"
    assert line["bundles"]["made-up"]["states"] == {"scored": 30, "failed: no_mpp": 1}
    assert len(line["warnings"]) == 2


def test_names_from_outside_send_nothing_to_the_terminal(tmp_path: Path) -> None:
    out = str(tmp_path)
    made.write_run(out, bundle="\x1b]0;owned\x07[red]b[/red]")
    made.write_decisions(out, [made.unscored("f", "failed", "\x1b[2Jgone"), made.unscored("g", "failed", "[bold]x")])
    made.write_progress(out, "d\x1bx"[:1], note="\x1b[31mred", ago_s=1)
    folder = WatchedFolder("a\x1b[1m", out)
    folder.refresh()
    screen = Console(file=io.StringIO(), width=100, force_terminal=False, color_system=None)
    screen.print(view(folder.name, folder.current, folder.problem))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold]x" in text
    assert "[red]b[/red]" in text
