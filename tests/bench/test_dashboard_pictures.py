"""What cannot be drawn is named; that all can be drawn, `tests/monitoring/test_dashboards_live.py` shows."""

from pathlib import Path

import pytest

from uadray.bench.dashboard_pictures import PAGE, draw
from uadray.errors import InputError


def test_a_dashboard_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no dashboard costs; there are: archive, calibration, cost, "):
        draw("http://127.0.0.1:9", tmp_path / "out", names=["costs"])
    assert not (tmp_path / "out").exists()


def test_the_page_finds_its_script() -> None:
    assert f'src="{PAGE.with_suffix(".js").name}"' in PAGE.read_text(encoding="utf-8")
    assert PAGE.with_suffix(".js").is_file()
