"""`bench bundles`: that both screenings are the same work, and that a wrong score would be seen."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uadray.bench import bundles
from uadray.errors import WorkError


def _screening(folder: Path, scores: list[float | None], tile_id: str = "s/0") -> Path:
    (folder / "tiles").mkdir(parents=True)
    table = pa.table({"tile_id": [tile_id] * len(scores), "score": pa.array(scores, pa.float64())})
    pq.write_table(table, folder / "tiles" / "s.parquet")
    return folder


def test_a_score_that_differs_is_seen(tmp_path: Path) -> None:
    one = _screening(tmp_path / "one", [1.0, None, 3.0])
    assert bundles._difference(one, one) == 0
    assert bundles._difference(one, _screening(tmp_path / "two", [1.0, None, 3.25])) == 0.25
    with pytest.raises(WorkError, match="not the same tiles"):
        bundles._difference(one, _screening(tmp_path / "other", [1.0, None, 3.0], "s/1"))


def test_the_two_detectors_are_two(tmp_path: Path) -> None:
    first, second = (bundles._bundle(tmp_path / str(seed), seed).bundle for seed in range(2))
    assert first.id != second.id
    assert first.tiles == second.tiles


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Ray, about itself
def test_both_score_every_tile_alike(ray_cluster: None) -> None:
    figures = bundles.run(slides=2, pairs=1, repeats=1)
    assert figures["largest_difference"] <= 1e-6
    assert figures["tiles"] >= 2
