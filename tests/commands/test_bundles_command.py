"""`uadray card` and `uadray bundles`: what a person is told of a bundle, whatever bundle it is."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import answer, run

from uadray.bench.slides import write_calibration, write_tiny_bundle
from uadray.commands import card
from uadray.commands.bundles import listing
from uadray.decisions.conformal import threshold
from uadray.detectors.bundle import Bundle, read_bundle
from uadray.errors import InputError
from uadray.ready.entries import About, Entry, Figures, Measured
from uadray.reports.card import card_markdown


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_tiny_bundle(str(tmp_path / "bundle"))
    return read_bundle(str(tmp_path / "bundle"))


def _entry(folder: Path, bundle: Bundle, figures: dict[str, Any] | None) -> Entry:
    about = About(
        title="a toy", intended_use="tests alone", not_for=("patients",), training_data="noise", licence="MIT",
        evaluation_data="more noise", factors=("weather",), limits=("all",), advice=("do not",),
    )  # fmt: skip
    measured = Measured(size_bytes=1, figures=Figures.model_validate(figures) if figures else None)
    return Entry("toy", folder, bundle, about, measured)


def test_the_card_of_any_bundle(tmp_path: Path, bundle: Bundle) -> None:
    """It says what is not known, and that it cannot decide, until it is calibrated."""
    uri = str(tmp_path / "bundle")
    (tmp_path / "bundle" / "calibration.json").unlink(missing_ok=True)
    before = card.run(uri, out=None)[1]
    for text in ("Research use only", bundle.weights_sha256, "f-AnoGAN", "What is abnormal cannot be generated", "Nothing is known",
                 "it scores, and cannot decide"):  # fmt: skip
        assert text in before
    calibration = write_calibration(uri, bundle)
    values, after = card.run(uri, out=None)
    assert values == {"bundle": bundle.id, "name": bundle.name, "is_calibrated": True, "card": None}
    assert "cannot decide" not in after
    for value in (calibration.id, len(calibration.scores), calibration.alpha, f"{threshold(calibration):.6g}"):
        assert f"| {value} |".replace("_", "\\_") in after


def test_a_ready_bundle_is_shown_with_its_figures(tmp_path: Path, bundle: Bundle) -> None:
    figure = {"what": "AUROC of tiles", "data": "noise", "value": 0.5, "low": 0.4, "high": 0.6, "note": "95 %"}
    figures = {"budget": "no time", "command": "uadray evaluate x", "figures": [figure]}
    entry = _entry(tmp_path, bundle, figures)
    text = card_markdown("t", card.sections_of(bundle, None, entry))
    told = ("a toy", "tests alone", "- patients", "noise", "- weather", "- all", "- do not", "no time")
    rows = ("| AUROC of tiles, noise | 0.5 (0.4 to 0.6; 95 %) |", "| licence of what was fitted | MIT |")
    for part in (*told, *rows):
        assert part in text
    text = card_markdown("t", card.sections_of(bundle, None, _entry(tmp_path, bundle, None)))
    assert "Nothing is known" in text
    assert "more noise" not in text


def test_the_card_as_a_file(tmp_path: Path, bundle: Bundle) -> None:
    uri = str(tmp_path / "bundle")
    done = run("card", uri, "--out", str(tmp_path / "card.html"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "card.html").read_text().startswith("<!doctype html>")
    assert answer(done)["card"] == str(tmp_path / "card.html")
    with pytest.raises(InputError, match=r"card\.pdf: a card is a file \.md or \.html"):
        card.run(uri, out=str(tmp_path / "card.pdf"))


def test_nothing_of_slides_is_on_a_card(tmp_path: Path, bundle: Bundle) -> None:
    """Only counts, even where a bundle has more to say than it may."""
    data = {
        "n_tiles": 7,
        "label": "normal",
        "slides": ["secret"],
        "salt": "secret",
        "path": "/secret",
        "n_slides": ["secret"],
    }
    told = bundle.model_copy(update={"training_data": data})
    text = card_markdown("t", card.sections_of(told, None, None))
    assert "| tiles | 7 |" in text
    assert "secret" not in text


def test_the_list_of_ready_bundles() -> None:
    done = run("bundles", "list")
    assert done.returncode == 0, done.stderr
    known = answer(done)["bundles"]
    assert done.stdout.splitlines()[:-1] == list(listing(known))
    assert all(json.dumps(entry["name"])[1:-1] in done.stdout for entry in known)


def test_an_unknown_ready_bundle_is_one_line(tmp_path: Path) -> None:
    done = run("bundles", "pull", "no-such", "--out", str(tmp_path / "b"))
    assert done.returncode == 2
    assert done.stderr.startswith("uadray: no ready bundle called 'no-such'")
    assert len(done.stderr.splitlines()) == 1
