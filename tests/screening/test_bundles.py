"""Which bundles may be screened together, and where the results of each lie."""

from typing import Any

import pytest
import screening_drivers as sd

from uadray.errors import InputError
from uadray.screening.bundles import ScreeningBundle, arranged
from uadray.tiles.quality import QualityConfig
from uadray.tiles.spec import TileSpec


def _bundle(id_: str, name: str = "", **tiles: Any) -> sd.Bundle:
    return sd.Bundle(id_, name or id_, sd.TileSpec(**{"mpp": sd.Mpp(0.5), "tile_px": 96} | tiles))


def test_a_bundle_by_itself_has_no_folder() -> None:
    (alone,) = sd.panel(_bundle("a"))
    assert (alone.folder, alone.name) == ("", "a")
    with pytest.raises(InputError, match="needs a bundle"):
        arranged([])


def test_folders_do_not_depend_on_the_order() -> None:
    one, other = sd.panel(_bundle("1", "dpa"), _bundle("2", "knn")), sd.panel(_bundle("2", "knn"), _bundle("1", "dpa"))
    assert one == other
    assert [each.folder for each in one] == ["dpa", "knn"]


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["dpa", "dpa"], ["dpa-0", "dpa-1"]),
        (["DPA", "dpa", "x"], ["DPA-0", "dpa-1", "x"]),  # one folder on some file systems
        (["masks", "Tiles"], ["Tiles-1", "masks-0"]),
        (["combined", "x"], ["combined-0", "x"]),
        (["Jobs", "screenings"], ["Jobs-0", "screenings-1"]),  # an endpoint's own
        (["../../etc", "a b/c"], ["a-b-c", "etc"]),
        (["..", "x"], ["-0", "x"]),
    ],
)
def test_folders_are_one_a_bundle_and_nobody_elses(names: list[str], folders: list[str]) -> None:
    assert [each.folder for each in sd.panel(*(_bundle(str(i), name) for i, name in enumerate(names)))] == folders


def test_the_same_bundle_twice_is_refused() -> None:
    both = [ScreeningBundle(uri, _bundle("a"), sd.CALIBRATION) for uri in ("/here", "/there")]  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^/here and /there are the same bundle \(a\); name it once$"):
        arranged(both)


def test_bundles_that_read_different_tiles_are_refused_with_what_differs() -> None:
    blurred = QualityConfig(focus_min=0.1)
    with pytest.raises(InputError) as caught:
        sd.panel(_bundle("a"), _bundle("b", tile_px=64, mpp=1.0, quality=blurred), _bundle("c"))
    text = str(caught.value)
    assert text.startswith("bundles /a and /b read different tiles: mpp 0.5 and 1.0; tile_px 96 and 64; ")
    assert f"quality.focus_min {QualityConfig().focus_min} and 0.1" in text
    assert "\n" not in text
    with pytest.raises(InputError, match=r"/a and /b .*quality \{.*\.\.\. and none;"):
        sd.panel(_bundle("a"), _bundle("b", quality=None))
    assert len(sd.panel(_bundle("a", mask_dir="/m"), _bundle("b"))) == 2


def test_every_field_of_tiles_but_the_masks_is_compared() -> None:
    assert "mask_dir" in TileSpec.model_fields
    others = {"mpp": 0.25, "tile_px": 32, "stride_px": 48, "min_tissue": 0.1, "max_coarser": 0, "quality": None}
    assert TileSpec.model_fields.keys() - others.keys() == {"mask_dir", "stain"}
    for name, value in others.items():
        with pytest.raises(InputError, match=f"read different tiles: .*{name}"):
            sd.panel(_bundle("a"), _bundle("b", **{name: value}))
