"""Which settings of tiles are refused."""

import json

import pytest
from pydantic import ValidationError

from uadray.tiles.spec import TileSpec, as_kept


@pytest.mark.parametrize(
    "values",
    [
        {"mpp": 0},
        {"mpp": float("nan")},
        {"tile_px": 4},
        {"min_tissue": 1.1},
        {"max_coarser": 0.2},
        {"stride_px": 17},
        {"colour": 1},
    ],
)
def test_specs_that_make_no_sense(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TileSpec.model_validate({"mpp": 0.5, "tile_px": 16} | values)


def test_files_from_before_max_coarser_mean_none_and_keep_their_ids() -> None:
    old = {"mpp": 0.5, "tile_px": 16, "stride_px": None, "min_tissue": 0.5, "quality": None, "stain": None}
    spec = TileSpec.model_validate(as_kept(old))
    assert spec.max_coarser == 0
    assert spec.json_for_ids() == json.dumps(old, separators=(",", ":"))
    assert TileSpec.model_validate(as_kept(spec.model_dump())) == spec
    new = TileSpec.model_validate(old)
    assert new.max_coarser > 0
    assert new.json_for_ids() != spec.json_for_ids()
    assert TileSpec.model_validate(as_kept(new.model_dump())) == new
