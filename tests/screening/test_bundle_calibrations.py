"""A calibration that is replaced stays readable by its name, and names lead nowhere else."""

import json
from pathlib import Path
from typing import Any

import pytest

from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration
from uadray.errors import InputError
from uadray.screening.bundle_calibrations import kept_calibration, write_calibration


def _calibration(name: str, **values: Any) -> Calibration:
    return Calibration.model_validate({
        "id": name, "bundle_id": "b", "aggregation": AggregationConfig(), "alpha": 0.5, "scores": (1.0, 2.0),
        "tile_median": 0.1, "tile_p99": 0.2, "tile_high": 0.3, **values,
    })  # fmt: skip


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    """Also one of an older version, which was never written to the folder."""
    older = _calibration("c0ffee")
    (tmp_path / "calibration.json").write_text(older.model_dump_json(exclude={"groups", "group_by", "smoothed"}))
    assert kept_calibration(str(tmp_path), "c0ffee") == older
    second, third = _calibration("dec0de", alpha=0.4), _calibration("facade")
    write_calibration(str(tmp_path), second)
    write_calibration(str(tmp_path), third)
    assert sorted(path.name for path in (tmp_path / "calibrations").iterdir()) == [
        "c0ffee.json", "dec0de.json", "facade.json",
    ]  # fmt: skip
    for each in (older, second, third):
        assert kept_calibration(str(tmp_path), each.id) == each
    assert json.loads((tmp_path / "calibration.json").read_text())["id"] == "facade"


@pytest.mark.parametrize("name", ["../../evil", "a/b", ".hidden", "", "x" * 99, "a\n"])
def test_names_that_are_no_file_lead_nowhere(tmp_path: Path, name: str) -> None:
    bundle = tmp_path / "deep" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "calibration.json").write_text(_calibration(name).model_dump_json())
    write_calibration(str(bundle), _calibration("new"))
    assert sorted(p.name for p in tmp_path.rglob("*.json")) == ["calibration.json", "new.json"]
    with pytest.raises(InputError, match="has no calibration"):
        kept_calibration(str(bundle), name)


def test_what_was_no_calibration_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "calibration.json").write_text("{nothing")
    write_calibration(str(tmp_path), _calibration("new"))
    assert [path.name for path in (tmp_path / "calibrations").iterdir()] == ["new.json"]


def test_a_kept_file_must_be_what_it_is_called(tmp_path: Path) -> None:
    write_calibration(str(tmp_path), _calibration("one"))
    write_calibration(str(tmp_path), _calibration("two"))
    (tmp_path / "calibrations" / "one.json").write_text(_calibration("two").model_dump_json())
    with pytest.raises(InputError, match="calls itself two"):
        kept_calibration(str(tmp_path), "one")
