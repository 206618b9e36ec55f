"""What the worklist says of a slide in sentences, and of a tile in lines: pieces of text, some of them bold.

Both ways of the page to show a slide, written by the server and built in the browser, have their words from here.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from uadray.reports.page import number, percent, thousands

Words = Sequence[tuple[str, bool]]
"""Pieces of a text, and whether each is bold."""


def slide_words(
    row: Mapping[str, Any], *, group: str, n_good: int | None, flags: Sequence[tuple[str, int]]
) -> Words:  # fmt: skip
    """What is said below the pictures of a slide.

    Args:
        row: of `SLIDE_DECISIONS`; what it does not have is not said.
        group: of `GROUPS`.
        n_good: tissue tiles that were not left out for their quality.
        flags: how many were left out by each reason, the most first.
    """
    if group == "failed":
        return [("Not screened.", True), (" It is not a normal result.", False)]
    if group == "not_assessable":
        return [
            ("No decision: this slide was opened but could not be judged.", True),
            (" It is not a normal result.", False),
        ]
    return [*_of_the_p_value(row), *_of_the_tiles(row, n_good, flags)]


def tile_lines(tile: Mapping[str, Any]) -> list[str]:
    """Lines below the pictures of an evidence tile.

    How its score stands among the tiles of normal slides, what it would take to be like them, and where it lies.

    >>> tile_lines({"score": 1.9, "normal_p": 0.004, "normal_limit": 1.5, "x_level0_px": 96, "y_level0_px": 0})
    ['as high: 1 in 250 normal tiles', 'to be normal: 1.50 or less', 'x 96', 'y 0']
    >>> tile_lines({"score": 0.4, "normal_p": 0.3, "normal_limit": 1.5, "x_level0_px": 0, "y_level0_px": 0})
    ['as high: 1 in 3.3 normal tiles', 'x 0', 'y 0']
    """
    p, limit, lines = tile.get("normal_p"), tile.get("normal_limit"), list[str]()
    if p and tile["score"] is not None:
        lines.append(f"as high: 1 in {thousands(round(1 / p)) if p < 0.1 else f'{1 / p:.2g}'} normal tiles")
        if limit is not None and tile["score"] > limit:
            lines.append(f"to be normal: {number(limit)} or less")
    return [*lines, f"x {int(tile['x_level0_px'])}", f"y {int(tile['y_level0_px'])}"]


def _of_the_p_value(row: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    if row.get("note"):
        yield f"This slide was used for {row['note']}: its p-value is no news.", True
        yield " ", False
    if row.get("calibration_holds") is False:
        yield f"The calibration does not hold for {_origin(row)}: p-value and decision cannot be relied on.", True
        yield " ", False
    if row["p_value"] is not None:
        yield f"About {percent(row['p_value'])} of slides known to be normal would score at least this high. ", False
    group, n = row.get("calibration_group"), row.get("calibration_group_slides")
    if group is not None and n is not None:
        judges = f"all {thousands(n)} normal slides of the calibration" if group == "pool" else (
            f"{thousands(n)} normal slides of {group}"
        )  # fmt: skip
        yield f"Judged against {judges}{_interval(row)}. ", False
        if group == "pool" and row.get("message"):
            yield f"{row['message'][:1].upper()}{row['message'][1:]}. ", False
    if row.get("q_value") is not None:
        share = percent(row["q_value"])
        yield f"Of the slides down to this one, {share} at most are expected to be false alarms (q-value). ", False


def _origin(row: Mapping[str, Any]) -> str:
    named = [f"{name} {row[name]}" for name in ("site", "scanner") if row.get(name)]
    return " and ".join(named) if named else "slides like this one"


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("false_alarm_low"), row.get("false_alarm_high")
    if low is None or high is None:
        return ""
    return f", with which {percent(low)} to {percent(high)} of normal slides are called anomalous (95 % interval)"


def _of_the_tiles(
    row: Mapping[str, Any], n_good: int | None, flags: Sequence[tuple[str, int]]
) -> Iterator[tuple[str, bool]]:  # fmt: skip
    n_scored = row["n_scored"]
    yield f"{thousands(n_scored)} of {thousands(n_good)} tissue tiles were scored", False
    if n_scored is not None and n_good is not None and n_scored < n_good:
        yield "; ", False
        yield f"{thousands(n_good - n_scored)} could not be read", True
    yield ".", False
    if flags:
        counts = ", ".join(f"{thousands(count)} {flag.replace('_', ' ')}" for flag, count in flags)
        yield f" Left out for their quality: {counts}.", False
