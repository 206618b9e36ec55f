"""Slides that several tests of training read."""

import pytest
from training_slides import N_SLIDES, PER_SLIDE, SPEC, write_slide

from uadray.slides.manifest import read_manifest, write_manifest
from uadray.training.dataset import slide_source
from uadray.training.slide_source import SlideSource
from uadray.training.survey import survey_slide


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("slides")
    rows = [write_slide(folder / f"s{i}.tif", i) for i in range(N_SLIDES)]
    write_manifest(rows, str(folder / "m.csv"))
    return str(folder / "m.csv")


@pytest.fixture(scope="session")
def source(manifest: str) -> SlideSource:
    surveys = [survey_slide(row, SPEC) for row in read_manifest(manifest)]
    return slide_source(surveys, SPEC, per_slide=PER_SLIDE, seed=7)
