"""What a pass draws and crops, and what it costs when slides or the system fail."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from seaweed import SeaweedServer
from training_slides import N_SLIDES, PER_SLIDE, SPEC, read_crops, write_slide

from uadray.errors import UadrayError
from uadray.slides.manifest import SlideRow
from uadray.slides.opening import open_slide
from uadray.slides.tile_reading import read_tile
from uadray.storage import objects
from uadray.training.crops import crop_pixels, random_crop
from uadray.training.dataset import slide_source
from uadray.training.journal import Journal
from uadray.training.slide_source import SlideSource
from uadray.training.survey import survey_slide


def test_passes_draw_afresh_and_reproducibly(source: SlideSource) -> None:
    table = read_crops(source, passes=2)
    assert table.equals(read_crops(source, passes=2))
    drawn = []
    for turn in (0, 1):
        rows = table.filter(pa.array(table["pass_number"].to_numpy() == turn))
        pairs = set(zip(rows["slide"].to_pylist(), rows["tile"].to_pylist(), strict=True))
        assert len(pairs) == len(rows) == N_SLIDES * PER_SLIDE
        assert np.bincount(rows["slide"].to_numpy()).tolist() == [PER_SLIDE] * N_SLIDES
        drawn.append(pairs)
    chance = PER_SLIDE / 256
    assert len(drawn[0] & drawn[1]) == pytest.approx(chance * N_SLIDES * PER_SLIDE, rel=0.15)


def test_crops_are_the_slides_pixels_turned(source: SlideSource) -> None:
    table = read_crops(source, passes=1).slice(0, 40)
    for row, crop in zip(table.to_pylist(), crop_pixels(table, 32), strict=True):
        slide = source.rows[row["slide"]]
        x, y = source.corners(row["slide"])[0][row["tile"]].tolist()
        with open_slide(slide.uri, slide_id=slide.slide_id) as opened:
            tile = read_tile(opened, x_level0_px=x, y_level0_px=y, mpp=1.0, tile_px=32)
        turned = [np.rot90(t, k) for t in (tile, tile[:, ::-1]) for k in range(4)]
        assert sum(np.array_equal(crop, t) for t in turned) == 1


def test_stain_augmentation_changes_colours_alone(source: SlideSource) -> None:
    plain, stained = read_crops(source, passes=1), read_crops(source, passes=1, stain_augment=0.2)
    assert stained.drop(["pixels"]).equals(plain.drop(["pixels"]))
    before, after = crop_pixels(plain, 32).astype(int), crop_pixels(stained, 32).astype(int)
    shift = (after - before).mean((1, 2))
    assert shift.std(0).min() > 2, "each crop by its own draw"
    assert stained.equals(read_crops(source, passes=1, stain_augment=0.2))


def test_random_crops_reach_every_corner() -> None:
    tile = np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, 2)
    rng = np.random.default_rng(0)
    crops = [random_crop(tile, 6, rng) for _ in range(300)]
    assert {int(crop.min()) for crop in crops} == {y * 8 + x for y in range(3) for x in range(3)}
    assert len({crop.tobytes() for crop in crops}) == 9 * 8


def test_a_slide_that_changes_or_goes_costs_its_tiles_and_is_told_once(tmp_path: Path) -> None:
    rows = [write_slide(tmp_path / f"{name}.tif", i) for i, name in enumerate(["good", "changed", "gone"])]
    found = slide_source([survey_slide(row, SPEC) for row in rows], SPEC, per_slide=None, seed=0)
    write_slide(tmp_path / "changed.tif", 9)
    (tmp_path / "gone.tif").unlink()
    journal = Journal()
    table = read_crops(found, passes=2, journal=journal)
    assert np.bincount(table["slide"].to_numpy()).tolist() == [2 * 256]
    told = dict(journal.take())
    assert told.keys() == {"changed", "gone"}
    assert told["changed"].startswith("changed: ")
    assert told["gone"].startswith("missing: ")
    assert journal.take() == []


@pytest.mark.s3
def test_what_is_the_systems_fault_ends_the_reading_and_is_no_slides_fault(
    s3: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = write_slide(tmp_path / "a.tif", 1)
    row = SlideRow("a", f"s3://{s3.bucket}/system/a.tif")
    objects.write_bytes(row.uri, Path(local.uri).read_bytes())
    found = slide_source([survey_slide(row, SPEC)], SPEC, per_slide=None, seed=0)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "out-of-date")
    result = survey_slide(row, SPEC)
    assert result.is_systems
    assert (result.error or "").startswith("no_access: ")
    journal = Journal()
    with pytest.raises(UadrayError, match="SignatureDoesNotMatch"):
        read_crops(found, passes=1, journal=journal)
    assert journal.take() == []
