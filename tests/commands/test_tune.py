"""`uadray tune` as a user runs it: on Ray, whole; killed half-way and gone on with; refused."""

import csv
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import answer, run, start
from tune_searches import SEARCH, tiny_search, write_tiles

from uadray.commands import tune as command
from uadray.config import load_config
from uadray.errors import InputError, WorkError
from uadray.training.config import TrainConfig
from uadray.training.tune_config import configured
from uadray.training.tune_data import Asked, read_tune_data
from uadray.training.tune_journal import Journal

ASKED = Asked(n=5, seed=1)


@pytest.fixture(autouse=True)
def _printing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command prints beside its answer stays where it is: a log file would outlive the test."""
    monkeypatch.setattr("uadray.commands.progress.divert", lambda: None)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiles(tmp_path_factory.mktemp("tune") / "tiles"))


def _command(tiles: str, folder: Path, *more: str) -> tuple[str, ...]:
    (folder / "search.yaml").write_text(yaml.safe_dump(SEARCH))
    return (
        "tune", str(folder / "search.yaml"), "--data", tiles, "--anomalies", tiles, "--out", str(folder / "out"),
        "--n-anomalies", "5", "--trials", "4", "--parallel", "1", "--seed", "1", *more,
    )  # fmt: skip


def _table(out: Path) -> list[dict[str, str]]:
    """The rows of trials.csv without what differs from run to run."""
    with (out / "trials.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_search_does_no_fold_twice_and_ends_as_if_it_had_not_been(
    tiles: str, tmp_path: Path, ray_cluster: None
) -> None:
    (tmp_path / "killed").mkdir()
    given = {"data": tiles, "anomalies": tiles, "out": str(tmp_path / "whole" / "out"), "asked": ASKED}
    whole = command.run(tiny_search(), **given, trials=4, minutes=None, grid=False, parallel=1)
    killed = start(*_command(tiles, tmp_path / "killed"))
    folds = tmp_path / "killed" / "out" / "folds"
    until = time.monotonic() + 120
    while time.monotonic() < until and len(list(folds.glob("*.json"))) < 4 and killed.poll() is None:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in folds.glob("*.json")}
    assert 4 <= len(before) < len(list((tmp_path / "whole" / "out" / "folds").glob("*.json")))
    assert not (folds.parent / "best.yaml").exists()
    done = run(*_command(tiles, tmp_path / "killed"), timeout=200)
    assert done.returncode == 0, done.stderr
    assert {name: (folds / name).stat().st_mtime_ns for name in before} == before
    assert _table(tmp_path / "killed" / "out") == _table(tmp_path / "whole" / "out")
    assert answer(done)["best"]["auroc_folds"] == whole["best"]["auroc_folds"]
    again = run(*_command(tiles, tmp_path / "killed", "--set", "train.seed=5"))
    assert again.returncode == 2
    assert "holds a search of another configuration or of other data" in again.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_grid_is_searched_whole_and_a_trial_that_cannot_be_has_a_reason(
    tiles: str, tmp_path: Path, ray_cluster: None
) -> None:
    space: dict[str, Any] = {"tiles.mpp": [1.0, 2.0], "detector.input_px": [16, 32]}  # 32 px are more than a tile has
    config = tiny_search().model_copy(update={"space": space, "folds": 2})
    given = {"data": tiles, "anomalies": tiles, "out": str(tmp_path / "out"), "asked": ASKED, "minutes": None}
    found = command.run(config, **given, trials=None, grid=True, parallel=None)
    assert found["counts"] == {"complete": 3, "failed": 1}
    rows = json.loads((tmp_path / "out" / "trials.json").read_text())["rows"]
    assert "input_px 32 is larger than tiles.tile_px 16" in rows.pop()["why"]
    assert [row["auroc"] for row in rows] == sorted((row["auroc"] for row in rows), reverse=True)
    best = load_config(TrainConfig, tmp_path / "out" / "best.yaml")
    assert best == configured(config, rows[0]["params"])
    page = (tmp_path / "out" / "tune.html").read_text()
    assert "5 anomalies of 2 kinds" in page
    assert "lines &amp; &lt;b&gt;" in page
    assert "optimistic" in page
    before = (tmp_path / "out" / "trials.csv").read_text()
    command.run(config, **given, trials=None, grid=True, parallel=None)  # all is there: nothing is trained
    assert (tmp_path / "out" / "trials.csv").read_text() == before


def test_what_is_wrong_is_refused_before_ray(tiles: str, tmp_path: Path) -> None:
    config = tiny_search()
    given = {"data": tiles, "anomalies": tiles, "out": str(tmp_path / "out"), "minutes": None, "parallel": None}
    with pytest.raises(InputError, match="--grid has as many trials as the space has points"):
        command.run(config, **given, asked=ASKED, trials=3, grid=True)
    with pytest.raises(InputError, match=r"detector.width is a range without a step"):
        command.run(config, **given, asked=ASKED, trials=None, grid=True)
    with pytest.raises(InputError, match="--n-anomalies 10: there are 9"):
        command.run(config, **given, asked=Asked(n=10), trials=1, grid=False)
    journal = Journal(str(tmp_path / "none"))
    search = journal.begin("a", command._about(config, read_tune_data(tiles, tiles, config, ASKED), ASKED, grid=False))
    with pytest.raises(WorkError, match="no trial was finished: time was up"):
        command._concluded(config, journal, search, [])
    assert (tmp_path / "none" / "tune.html").exists()
