"""Which settings of tiles are refused."""

import pytest
from pydantic import ValidationError

from uadray.tiles.spec import TileSpec


@pytest.mark.parametrize(
    "values", [{"mpp": 0}, {"mpp": float("nan")}, {"tile_px": 4}, {"min_tissue": 1.1}, {"stride_px": 17}, {"colour": 1}]
)
def test_specs_that_make_no_sense(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        TileSpec.model_validate({"mpp": 0.5, "tile_px": 16} | values)
