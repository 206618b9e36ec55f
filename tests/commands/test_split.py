"""No patient in two splits, nobody moves, and shares as thrown by dice, or dealt evenly on request."""

import logging
import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uadray.commands.split import FRACTIONS, split, split_manifest
from uadray.errors import InputError
from uadray.slides.manifest import SlideRow, read_manifest, write_manifest

PINNED = ["train", "train", "calib", "train", "train", "test", "train", "train"]

NAMES = st.text("ab1é ", min_size=1, max_size=3)
ROWS = st.lists(
    st.builds(
        SlideRow, slide_id=st.uuids().map(str), uri=st.just("/s.tif"), patient_id=st.none() | NAMES,
        site=st.none() | st.sampled_from(["A", "B"]), scanner=st.none() | st.sampled_from(["x", "y"]),
    ),
    unique_by=lambda row: row.slide_id, max_size=40,
)  # fmt: skip
STRATA = st.sampled_from([(), ("site",), ("site", "scanner")])


def _archive(n: int, *, per_patient: int = 1) -> list[SlideRow]:
    """Patients of two sites, one in ten at the small one."""
    return [
        SlideRow(f"s{i}.{j}", "/s.tif", patient_id=f"p{i}", site="small" if i % 10 == 0 else "large")
        for i in range(n) for j in range(per_patient)
    ]  # fmt: skip


def _by_patient(rows: list[SlideRow], splits: dict[str, str]) -> dict[str, set[str]]:
    places = defaultdict(set)
    for row in rows:
        places[row.patient_id or f"slide {row.slide_id}"].add(splits[row.slide_id])
    return places


@given(ROWS, STRATA, st.booleans(), st.text(max_size=3))
@settings(max_examples=60, deadline=None)
def test_no_patient_is_in_two_splits(rows: list[SlideRow], strata: tuple[str, ...], even: bool, seed: str) -> None:
    splits = split(rows, stratify_by=strata, even=even, seed=seed)
    assert splits.keys() == {row.slide_id for row in rows}
    assert all(len(places) == 1 for places in _by_patient(rows, splits).values())
    assert set(splits.values()) <= FRACTIONS.keys()


@given(ROWS, ROWS, STRATA, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_additions_move_nobody(
    rows: list[SlideRow], more: list[SlideRow], strata: tuple[str, ...], rng: object
) -> None:
    """Known patients on new sites among them, in whatever order."""
    before = split(rows, stratify_by=strata)
    both = rows + more
    rng.shuffle(both)  # type: ignore[attr-defined]
    after = split(both, stratify_by=strata)
    assert {slide_id: after[slide_id] for slide_id in before} == before


@given(ROWS, ROWS, STRATA)
@settings(max_examples=60, deadline=None)
def test_dealt_out_the_manifest_is_the_memory(
    rows: list[SlideRow], more: list[SlideRow], strata: tuple[str, ...]
) -> None:
    before = split(rows, stratify_by=strata, even=True)
    written = [replace(row, split=before[row.slide_id]) for row in rows]
    after = split(more + written, stratify_by=strata, even=True)
    assert {slide_id: after[slide_id] for slide_id in before} == before
    assert all(len(places) == 1 for places in _by_patient(rows + more, after).values())


def test_a_split_is_the_same_everywhere_and_for_ever() -> None:
    """Written down: a change of the hash would move every archive's patients."""
    rows = [SlideRow(f"s{i}", "/s.tif", patient_id=f"p{i}") for i in range(8)]
    assert list(split(rows).values()) == PINNED
    assert list(split(rows, {"test": 0.15, "train": 0.7, "calib": 0.15}).values()) == PINNED
    assert list(split(rows, seed="another").values()) != PINNED


@pytest.mark.parametrize("strata", [(), ("site",)])
def test_shares_are_those_of_dice(strata: tuple[str, ...]) -> None:
    """In all and in each stratum within four standard deviations, counted in patients."""
    rows = _archive(6000, per_patient=2)
    splits = split(rows, stratify_by=strata, seed="dice")
    for site in ("large", "small"):
        patients = {row.patient_id: splits[row.slide_id] for row in rows if row.site == site}
        counts = Counter(patients.values())
        for name, share in FRACTIONS.items():
            spread = math.sqrt(share * (1 - share) / len(patients))
            assert abs(counts[name] / len(patients) - share) < 4 * spread, (site, name)


def test_dealt_out_shares_are_within_a_patient_in_each_stratum() -> None:
    rows = _archive(200, per_patient=2)
    splits = split(rows, stratify_by=("site",), even=True)
    for site, n in (("large", 180), ("small", 20)):
        counts = Counter({row.patient_id: splits[row.slide_id] for row in rows if row.site == site}.values())
        assert all(abs(counts[name] - share * n) <= 1 for name, share in FRACTIONS.items()), (site, counts)


def test_a_patient_of_two_sites_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    """As of the site with more slides; of equally many, the first by name."""
    rows = [SlideRow(f"s{i}", "/s.tif", patient_id="p", site=site) for i, site in enumerate("BABA")]
    splits = split([*rows, SlideRow("n", "/s.tif", patient_id="q", site="B")], stratify_by=("site",), even=True)
    assert len({splits[row.slide_id] for row in rows}) == 1
    assert "stratum A: 0 of 1 patients are calib" in caplog.text
    assert "stratum B: 0 of 1 patients are calib" in caplog.text


def test_one_file_under_several_ids_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They may be put into different splits."""
    rows = [SlideRow("secret1", "/a.tif"), SlideRow("secret2", "/b.tif"), SlideRow("secret3", "/a.tif")]
    write_manifest(rows, str(tmp_path / "m.csv"))
    split_manifest(str(tmp_path / "m.csv"), str(tmp_path / "o.csv"))
    assert "2 of 3 slides are files that the manifest has under several ids" in caplog.text
    assert "secret" not in caplog.text


def test_labels_are_one_stratum_in_any_case(tmp_path: Path) -> None:
    rows = [SlideRow(f"s{i}", f"/{i}.tif", label=label) for i, label in enumerate(("Normal", "normal", "TUMOR"))]
    write_manifest(rows, str(tmp_path / "m.csv"))
    summary = split_manifest(str(tmp_path / "m.csv"), str(tmp_path / "o.csv"), stratify_by=("label",))
    assert set(summary["strata"]) == {"normal", "tumor"}


def test_slides_of_nobody_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    rows = [SlideRow("a", "/a"), SlideRow("b", "/b"), SlideRow("c", "/c", patient_id="a")]
    split(rows)
    assert "2 of 3 slides have no patient_id" in caplog.text
    caplog.clear()
    split(rows[2:])
    assert caplog.text == ""


def test_small_strata_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    split(_archive(20), stratify_by=("site",))
    assert "stratum small: 0 of 2 patients are" in caplog.text
    caplog.clear()
    split(_archive(20))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("fractions", "strata", "message"),
    [
        ({"train": 0.7, "test": 0.2}, (), "add up to 0.9, expected 1"),
        ({"train": 1.2, "test": -0.2}, (), "between 0 and 1"),
        ({}, (), "expected named shares"),
        (FRACTIONS, ("patient_id",), "cannot stratify by 'patient_id'; expected site, scanner"),
    ],
)
def test_what_cannot_be_is_refused(fractions: dict[str, float], strata: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split([SlideRow("a", "/a")], fractions, stratify_by=strata)


def test_a_patient_in_two_splits_is_refused() -> None:
    rows = [SlideRow("a", "/a", patient_id="p", split="train"), SlideRow("b", "/b", patient_id="p", split="test")]
    with pytest.raises(InputError, match="slide a: its patient has slides in the splits test and train"):
        split(rows, even=True)
    assert len(set(split(rows).values())) == 1  # the hash does not look


def test_manifest_round_trip(tmp_path: Path) -> None:
    rows = [replace(row, uri=str(tmp_path / "s.tif"), scanner="x") for row in _archive(40, per_patient=2)]
    source, out = str(tmp_path / "m.csv"), str(tmp_path / "split.parquet")
    write_manifest(rows, source)
    summary = split_manifest(source, out, stratify_by=("site", "scanner"), seed="1")
    written = read_manifest(out)
    assert [replace(row, split=None) for row in written] == rows
    assert {row.slide_id: row.split for row in written} == split(rows, seed="1")
    assert (summary["slides"], summary["patients"], summary["without_patient_id"]) == (80, 40, 0)
    for name in FRACTIONS:
        slides = sum(row.split == name for row in written)
        assert summary["splits"][name] == {"slides": slides, "patients": slides // 2}
        assert sum(stratum[name] for stratum in summary["strata"].values()) == slides // 2
    assert summary["strata"].keys() == {"large | x", "small | x"}
    with pytest.raises(InputError, match="is the manifest that is split"):
        split_manifest(source, source)
