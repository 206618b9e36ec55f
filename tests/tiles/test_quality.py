"""Flags of tiles: practically none on normal slides, whatever surrounds them; and what they mean for the slide."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError
from tiles.artefact_images import (
    INKS,
    SURROUNDINGS,
    Image,
    flagged_shares,
    on_glass,
    rings_of_pen,
    thumbnails,
    with_lesion,
)

from uadray.slides.opening import open_slide
from uadray.slides.thumbnail import thumbnail
from uadray.tiles.grid import grid
from uadray.tiles.plan import plan_slide
from uadray.tiles.quality import (
    FLAGS,
    Flag,
    QualityConfig,
    assess,
    flag_masks,
    tile_flags,
)
from uadray.tiles.spec import TileSpec
from uadray.tiles.tissue import tissue_mask


def _fates(image: Image) -> dict[tuple[int, int], Flag | None]:
    """The flag of each tissue tile of 64 um, for a slide of 1 um a pixel and this thumbnail at 4 um."""
    size = (4 * image.shape[1], 4 * image.shape[0])
    tissue, spec = tissue_mask(image, 4.0), TileSpec(mpp=1.0, tile_px=64)
    tiles = grid("s", size, 1.0, tissue, spec)
    x, y = tiles["x_level0_px"].to_numpy(), tiles["y_level0_px"].to_numpy()
    flags = tile_flags(flag_masks(image, 4.0, tissue), x, y, side_level0_px=64, size_level0_px=size)
    return dict(zip(zip(x.tolist(), y.tolist(), strict=True), flags, strict=True))


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_surrounds_a_slide_flags_no_tissue(phantom: Image, name: str) -> None:
    white = on_glass(phantom)
    expected = _fates(white)
    assert len(expected) > 100
    assert set(expected.values()) == {None}
    assert _fates(SURROUNDINGS[name](white)) == expected


@pytest.mark.parametrize("kind", ["closed", "open", "double", "several", "at the edge", "square"])
@pytest.mark.parametrize(
    ("width_um", "colour"),
    [(120, "black"), (120, "grey"), (200, "black"), (200, "green"), (300, "black"), (300, "red")],
)
def test_a_ring_of_pen_leaves_what_it_marks(phantom: Image, kind: str, width_um: int, colour: str) -> None:
    """Tiles that ink covers less than a tenth of are as without it; ink of 200 um and more is flagged."""
    marked = with_lesion(phantom)
    pen = rings_of_pen(kind, round(width_um / 4))
    soft = cv2.GaussianBlur(pen.astype(np.float32), (0, 0), 1)[..., None]
    image = (marked * (1 - soft) + np.array((INKS | {"grey": (110, 110, 112)})[colour]) * soft).astype(np.uint8)
    before, after = _fates(marked), _fates(image)
    grown = cv2.dilate(pen.astype(np.uint8), np.ones((5, 5), np.uint8))
    covered = {place: grown[place[1] // 4 :, place[0] // 4 :][:16, :16].mean() for place in before}
    clear = {place: flag for place, flag in before.items() if covered[place] < 0.1}
    changed = [place for place, flag in clear.items() if after.get(place, "lost") != flag]
    assert len(clear) > 50
    assert len(changed) <= 0.03 * len(clear)
    if width_um >= 200:  # the thinnest stroke there is
        assert all(after.get(place, "no tissue") for place, share in covered.items() if share > 0.7)


def test_surrounds_and_frames_of_slides(data_dir: Path) -> None:
    plans = {}
    for name in ("white.tif", "black.tif", "thin_frame_20um.tif"):
        with open_slide(data_dir / "cases" / "03_black_surround" / name, slide_id="s") as slide:
            plans[name] = plan_slide(slide, etag="e", spec=TileSpec(mpp=1.0, tile_px=64))
    expected = set(plans["white.tif"].tiles["tile_id"].to_pylist())
    for plan in plans.values():
        found = set(plan.tiles["tile_id"].to_pylist())
        assert len(found) == 36
        assert found == expected


def test_a_ring_of_pen_on_a_slide(data_dir: Path) -> None:
    """Eight by eight tiles in its middle are read as without it, and the ring itself is pen."""
    spec, plans = TileSpec(mpp=1.0, tile_px=64), []
    for name in ("none.tif", "black.tif"):
        with open_slide(data_dir / "cases" / "20_pen_ring" / name, slide_id="s") as slide:
            plans.append(plan_slide(slide, etag="e", spec=spec))
    inside = {f"s/x{x}_y{y}_64px_1mpp" for x in range(768, 1280, 64) for y in range(768, 1280, 64)}
    assert all(inside <= set(plan.tiles["tile_id"].to_pylist()) for plan in plans)
    assert set(plans[0].flags) == set()
    assert set(plans[1].flags) == {"pen"}


def test_glass_and_tiny_thumbnails_have_no_flags() -> None:
    for shape in ((1, 1), (1, 40), (3, 2), (200, 300)):
        image = np.full((*shape, 3), 242, np.uint8)
        masks = flag_masks(image, 4.0, tissue_mask(image, 4.0))
        assert not any(mask.any() for mask in masks.values())


def test_normal_slides_are_left_alone(data_dir: Path, phantom: Image) -> None:
    """Less than 1 % of the tissue, on mosaics that no threshold was chosen on, a real slide and phantoms."""
    slides = [(image, mpp) for _, image, mpp in thumbnails(data_dir / "mosaics" / "normal_calib", 8)]
    with open_slide(data_dir / "wsi" / "CMU-1-Small-Region.svs", slide_id="cmu") as slide:
        slides.append(thumbnail(slide))
    for image, mpp in [*slides, (phantom, 4.0)]:
        shares = flagged_shares(image, mpp)
        assert max(shares.values()) < 0.01, shares


def test_tile_flags_by_hand() -> None:
    """A slide of 400 x 200 px, masks of 4 px: pen on the left quarter, a fold over three fourths of the second."""
    pen, fold = np.zeros((2, 50, 100), np.bool_)
    pen[:, :25] = True
    fold[:, 20:43] = True
    masks: dict[Flag, np.ndarray] = {"pen": pen, "fold": fold, "air": np.zeros((3, 5), np.bool_)}
    x, y = np.array([0, 100, 172, 200, 300, 140]), np.zeros(6, np.int64)
    options = {"side_level0_px": 100, "size_level0_px": (400, 200)}
    assert tile_flags(masks, x, y, **options) == ["pen", "fold", None, None, None, "fold"]
    strict = QualityConfig(tile_share=0.9)
    assert tile_flags(masks, x, y, config=strict, **options) == ["pen", None, None, None, None, None]


@pytest.mark.parametrize(
    ("n_tissue", "counts", "reason"),
    [
        (100, {}, None),
        (100, {"pen": 75}, None),
        (100, {"pen": 76}, "pen"),
        (100, {"fold": 90, "pen": 5}, "folds"),
        (100, {"air": 100}, "air"),
        (100, {"blur": 40, "out_of_focus": 40}, "out_of_focus"),
        (100, {"pen": 40, "fold": 40}, "poor_quality"),
        (1, {"pen": 1}, "pen"),
        (0, {}, None),
    ],
)
def test_assess(n_tissue: int, counts: dict[Flag, int], reason: str | None) -> None:
    verdict = assess(n_tissue, counts)
    assert (verdict and verdict[0]) == reason
    if verdict:
        assert f"{n_tissue - sum(counts.values())} of {n_tissue} tissue tiles are good" in verdict[1]


def test_assess_counts_tiles_too() -> None:
    assert assess(100, {"pen": 50}, QualityConfig(min_good_tiles=60)) == (
        "pen",
        "50 of 100 tissue tiles are good, at least 60 needed; flagged: pen 50",
    )


def test_config_is_closed_and_bounded() -> None:
    assert set(FLAGS) == {"pen", "fold", "air", "blur", "out_of_focus"}
    for wrong in ({"tile_share": 0}, {"ink_ratio": 1.0}, {"pen_share": 0.5}):
        with pytest.raises(ValidationError):
            QualityConfig(**wrong)
