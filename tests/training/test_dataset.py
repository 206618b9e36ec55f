"""Which slides and labels are trained on."""

from pathlib import Path

import numpy as np
import pytest
from training_slides import SPEC

from uadray.errors import InputError
from uadray.reports.pictures import encode_png
from uadray.slides.identity import Seen, is_seen
from uadray.slides.manifest import SlideRow, read_manifest, write_manifest
from uadray.training.dataset import TrainingTiles, taken_labels, training_tiles
from uadray.training.survey import in_threads


def _tiles(uri: str, label: str) -> TrainingTiles:
    return training_tiles(
        uri, tiles=SPEC, input_px=32, tiles_per_slide=None, label=label, seed=0, survey_each=in_threads
    )


@pytest.mark.parametrize("label", ["NORMAL", "Normal"])
def test_labels_count_in_any_case(tmp_path: Path, label: str) -> None:
    assert taken_labels("set", "normal", {label, "Tumor"}) == {label}
    write_manifest([SlideRow("a", "a.tif", label=label)], str(tmp_path / "m.csv"))
    with pytest.raises(InputError, match="no slide has the label 'tumor'"):
        _tiles(str(tmp_path / "m.csv"), "tumor")


def test_a_manifest_without_normal_slides_is_refused(tmp_path: Path) -> None:
    write_manifest([SlideRow("a", "a.tif", label="tumor")], str(tmp_path / "m.csv"))
    with pytest.raises(InputError, match="no slide has the label 'normal'"):
        _tiles(str(tmp_path / "m.csv"), "normal")


def test_marks_of_slides_that_a_part_has_seen_are_kept(manifest: str) -> None:
    """With their salt, or they could not be compared."""
    rows = read_manifest(manifest)
    first = _tiles(manifest, "normal").description
    seen = Seen(first["salt"], frozenset(first["slides"][:3]))
    both = training_tiles(
        manifest, tiles=SPEC, input_px=32, tiles_per_slide=None, label="normal", seed=0, survey_each=in_threads,
        seen_before=seen,
    ).description  # fmt: skip
    assert both["salt"] == first["salt"]
    assert set(both["slides"]) == set(first["slides"])
    assert all(is_seen(row, Seen(both["salt"], frozenset(both["slides"]))) for row in rows)


def test_a_tile_set_knows_the_slides_of_the_part_alone(tmp_path: Path) -> None:
    folder = tmp_path / "normal"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))
    seen = Seen("salt", frozenset({"a", "b"}))
    description = training_tiles(
        str(tmp_path), tiles=SPEC, input_px=32, tiles_per_slide=None, label="normal", seed=0, survey_each=in_threads,
        seen_before=seen,
    ).description  # fmt: skip
    assert (description["salt"], description["slides"], description["n_tiles"]) == ("salt", ["a", "b"], 1)
