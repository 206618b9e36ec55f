"""A screening whose slides come with another stain is found to drift, and one whose slides do not is not."""

from pathlib import Path

import drifting_slides
import pytest
import small_screening
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from uadray.decisions.conformal import Calibration
from uadray.decisions.drift import GroupDrift, drift, in_words
from uadray.decisions.slide_measures import MEASURES
from uadray.monitoring.exporter import LedgerCollector
from uadray.monitoring.prices import ExporterConfig
from uadray.monitoring.watched import WatchedFolder
from uadray.screening.decision_segments import read_decisions

NORMALS, SLIDES = 24, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle calibrated on slides of one stain; `same` has 16 more of it, `changed` 4 and then 12 of another."""
    folder = tmp_path_factory.mktemp("drifting")
    normals = drifting_slides.painted(folder / "slides", [0] * NORMALS, prefix="normal")
    bundle = drifting_slides.calibrated(folder, normals)
    same = drifting_slides.painted(folder / "slides", [0] * SLIDES, prefix="same")
    changed = drifting_slides.painted(folder / "slides", [1] * (SLIDES - 4), prefix="other")
    small_screening.screen_here(str(folder / "same"), [bundle], same)
    small_screening.screen_here(str(folder / "changed"), [bundle], same[:4] + changed)
    return folder


def _drift(folder: Path, out: str) -> GroupDrift:
    calibration = Calibration.model_validate_json((folder / "tiny" / "calibration.json").read_bytes())
    (group,) = drift(read_decisions(str(folder / out)).table, calibration)
    return group


def test_slides_of_the_same_stain_do_not_drift(folder: Path) -> None:
    group = _drift(folder, "same")
    assert (group.n_slides, group.n_normals, group.reference) == (SLIDES, NORMALS, "group")
    assert set(group.evidence) == set(MEASURES)
    assert group.detected_at is None


def test_slides_of_another_stain_drift_and_are_named(folder: Path) -> None:
    group = _drift(folder, "changed")
    assert group.detected_at is not None
    assert group.detected_at <= 12
    assert group.measure in ("saturation", "green", "tile_score_median")
    assert in_words(group).startswith(f"site North, scanner S360: {group.measure.replace('_', ' ')} {group.direction}")


def _scraped(folder: Path, out: str) -> dict[str, list[Sample]]:
    """What the exporter tells Prometheus of a screening, by metric."""
    watched = WatchedFolder(out, str(folder / out))
    watched.refresh()
    assert not watched.problem
    registry = CollectorRegistry()
    registry.register(LedgerCollector([watched], ExporterConfig()))
    text = generate_latest(registry).decode()
    return {family.name: family.samples for family in text_string_to_metric_families(text)}


@pytest.mark.parametrize(("out", "detected"), [("same", 0), ("changed", 1)])
def test_the_exporter_says_which_screening_drifts(folder: Path, out: str, detected: int) -> None:
    told = _scraped(folder, out)
    (sample,) = told["uadray_drift_detected"]
    assert (sample.labels["screening"], sample.labels["site"], sample.labels["scanner"]) == (out, "North", "S360")
    assert sample.value == detected
    evidence = {each.labels["measure"]: each.value for each in told["uadray_drift_evidence"]}
    (limit,) = told["uadray_drift_limit"]
    assert set(evidence) == set(MEASURES)
    assert (max(evidence.values()) >= limit.value) == bool(detected)
    assert [each.value for each in told["uadray_drift_slides"]] == [SLIDES]
    holds = [each.value for each in told.get("uadray_calibration_holds", [])]
    assert holds == ([0] if detected else []), "16 slides are too few to say that it holds"


def test_the_log_says_once_in_words_what_drifts(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = WatchedFolder("archive", str(folder / "changed"))
    watched.refresh()
    watched.refresh()
    (line,) = [record.message for record in caplog.records if "drift" in record.message]
    assert line == f"archive: drift, bundle tiny: {in_words(_drift(folder, 'changed'))}"
