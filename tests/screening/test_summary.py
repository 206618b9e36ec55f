"""What people find in a screening's folder, of one bundle and of several."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import screening_drivers as sd

from uadray.schemas import SLIDE_DECISIONS
from uadray.screening.summary import pages, slide_states, state_of_slide, summarize, write_summaries

PROVENANCE = {"fingerprint": "f", "started": "2026-01-01 00:00 UTC"}


def _table(*rows: dict[str, Any]) -> pa.Table:
    common = {"uri": "/s.tif", "fingerprint": "f"}
    return pa.Table.from_pylist([{"slide_id": f"s{i}"} | common | row for i, row in enumerate(rows)], SLIDE_DECISIONS)


ANOMALOUS = {"state": "scored", "decision": "anomalous", "score": 2.0, "p_value": 0.1}
NORMAL = {"state": "scored", "decision": "normal", "score": 1.0, "p_value": 0.9}
NOT_ASSESSABLE = {"state": "not_assessable", "decision": "not_assessable", "reason": "no_stain", "message": "x"}
FAILED = {"state": "failed", "reason": "scoring", "message": "boom"}


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["scored", "failed"], "failed"),
        (["not_assessable", "scored"], "scored"),
        (["not_assessable", "failed", "scored"], "failed"),
        (["not_assessable", "not_assessable"], "not_assessable"),
    ],
)
def test_the_state_of_a_slide(states: list[str], state: str) -> None:
    assert state_of_slide(states) == state_of_slide(states[::-1]) == state
    tables = [_table({"state": each}) for each in states]
    assert slide_states(tables)["state"].to_pylist() == [state]


def test_counts_add_up_to_the_manifest() -> None:
    counts = summarize(_table(ANOMALOUS, NORMAL, NOT_ASSESSABLE, FAILED), n_slides=6)
    assert counts == {
        "slides": 6, "scored": 2, "not_assessable": 1, "failed": 1, "open": 2, "anomalous": 1,
        "failures": {"scoring": 1},
    }  # fmt: skip


def test_one_bundle(tmp_path: Path) -> None:
    summary = write_summaries(str(tmp_path), sd.panel(), [_table(ANOMALOUS, FAILED)], n_slides=2, provenance=PROVENANCE)
    assert (summary["anomalous"], summary["why_failed"]) == (1, "s1: scoring: boom")
    assert pages(summary) == summary["worklist"] == str(tmp_path / "worklist.html")
    assert {path.name for path in tmp_path.glob("[!.]*")} == {
        "decisions.parquet", "summary.json", "worklist.csv", "worklist.html", "worklist.xlsx",
    }  # fmt: skip
    assert summary.keys() - json.loads((tmp_path / "summary.json").read_text()).keys() == {"why_failed", "worklist"}


def test_several_bundles(tmp_path: Path) -> None:
    """States are of slides; what is anomalous, each bundle says for itself."""
    bundles = sd.panel(sd.Bundle("a", "a"), sd.Bundle("b", "b"))
    tables = [_table(ANOMALOUS, NORMAL, NOT_ASSESSABLE), _table(ANOMALOUS, ANOMALOUS, FAILED)]
    summary = write_summaries(str(tmp_path), bundles, tables, n_slides=4, provenance=PROVENANCE)
    counts = {name: summary[name] for name in ("slides", "scored", "not_assessable", "failed", "open", "failures")}
    assert counts == {
        "slides": 4, "scored": 2, "not_assessable": 0, "failed": 1, "open": 1, "failures": {"scoring": 1},
    }  # fmt: skip
    assert summary["anomalous"] == {"a": 1, "b": 2}
    assert summary["why_failed"] == "s2: scoring: boom"
    assert {name: each["not_assessable"] for name, each in summary["bundles"].items()} == {"a": 1, "b": 0}
    assert pages(summary) == ", ".join(str(tmp_path / name / "worklist.html") for name in "ab")
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["bundles"]["b"]["failed"] == 1
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["not_assessable"] == 1


@pytest.mark.parametrize(
    ("has", "pictures", "differences", "cells"),
    [
        ({}, True, False, False),
        ({"has_difference": True}, True, True, False),
        ({"has_reconstruction": False}, False, False, False),
        ({"has_reconstruction": False, "has_cells": True}, False, False, True),
    ],
)
def test_a_page_shows_the_pictures_that_there_are(
    tmp_path: Path, has: dict[str, bool], pictures: bool, differences: bool, cells: bool
) -> None:
    tile = {"tile_id": "s0/0", "x_level0_px": 0, "y_level0_px": 0, "score": 2.0} | has
    row = ANOMALOUS | {"evidence": json.dumps([tile]), "width_level0_px": 400, "height_level0_px": 300, "n_scored": 9}
    write_summaries(str(tmp_path), sd.panel(), [_table(row)], n_slides=1, provenance=PROVENANCE)
    page = (tmp_path / "worklist.html").read_text()
    assert "evidence/s0/tile_0.jpg" in page
    assert ("evidence/s0/reconstruction_0.jpg" in page) is pictures
    assert ("evidence/s0/residual_0.jpg" in page) is ("evidence/s0/outline_0.jpg" in page) is differences
    assert ("Where it differs most" in page) is differences
    assert ("evidence/s0/cells_0.jpg" in page) is ("Where in the tile" in page) is cells


@pytest.mark.parametrize(
    ("scale", "ends", "words"),
    [
        ({}, ("0.100 like", "abnormal 0.300"), "Tile scores"),
        (
            {"cell_median": -1.5, "cell_p99": 2.0, "cell_high": 4.5},
            ("<span>like", "abnormal<"),
            "Scores of tiles and of their parts",
        ),
    ],
)
def test_the_legend_is_that_of_the_heatmaps(
    tmp_path: Path, scale: dict[str, float], ends: tuple[str, str], words: str
) -> None:
    row = ANOMALOUS | {"width_level0_px": 400, "height_level0_px": 300, "n_scored": 9}
    panel = (replace(sd.panel()[0], calibration=sd.CALIBRATION.model_copy(update=scale)),)
    write_summaries(str(tmp_path), panel, [_table(row)], n_slides=1, provenance=PROVENANCE)
    page = (tmp_path / "worklist.html").read_text()
    assert all(end in page for end in ends)
    assert words in page
    assert "tile score 0.200 or more" in page  # the ring is that of tiles


@pytest.mark.parametrize(
    ("viewer", "link"), [("https://host/", "https://host/#slide=s0"), ("javascript:alert(1)", None)]
)
def test_slides_link_to_the_viewer_of_the_record(tmp_path: Path, viewer: str, link: str | None) -> None:
    provenance = PROVENANCE | {"viewer": viewer}
    write_summaries(str(tmp_path), sd.panel(), [_table(ANOMALOUS)], n_slides=1, provenance=provenance)
    page = (tmp_path / "worklist.html").read_text()
    assert (f'href="{link}"' in page) is ("Open in the viewer" in page) is (link is not None)
    assert "javascript:" not in page
    bundles = sd.panel(sd.Bundle("a", "a"), sd.Bundle("b", "b"))
    write_summaries(str(tmp_path), bundles, [_table(ANOMALOUS)] * 2, n_slides=1, provenance=provenance)
    assert ("https://host/#bundle=b&amp;slide=s0" in (tmp_path / "b" / "worklist.html").read_text()) is (
        link is not None
    )
