"""`uadray train` of a classifier: equally many tiles of each label a step, resumed exactly, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelled_tiles import SIDE, write_labelled

from uadray.classifiers import densenet
from uadray.classifiers.bundle import read_classifier
from uadray.commands.train import check, train
from uadray.config import parse_config
from uadray.errors import InputError
from uadray.phantoms.pyramid import write_pyramid
from uadray.reports.pictures import encode_png
from uadray.slides.identity import is_seen
from uadray.slides.manifest import SlideRow, write_manifest
from uadray.training.config import TrainConfig

RUN: dict[str, Any] = {
    "name": "pathologist", "tiles": {"mpp": 1.0, "tile_px": SIDE, "min_tissue": 0.0}, "epochs": 2, "steps_per_epoch": 8,
    "batch_size": 16, "shuffle_tiles": 32, "threads": 1,
    "classifier": {
        "kind": "densenet121", "input_px": 16, "growth": 4, "blocks": [2, 2], "stem": 8, "learning_rate": 0.01,
    },
}  # fmt: skip


class KilledError(Exception):
    """As a process that is killed in its second epoch."""


def _config(**changes: Any) -> TrainConfig:
    return parse_config(TrainConfig, RUN | changes, source="test")


@pytest.fixture(scope="module")
def tile_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_labelled(tmp_path_factory.mktemp("labelled") / "tiles", {"normal": 90, "tumor": 40}, seed=1)


def _lines(out: str) -> list[dict[str, Any]]:
    pace = {"seconds", "waiting", "tiles_per_second"}
    lines = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in pace} for line in lines]


@pytest.mark.usefixtures("torch_alone")
@pytest.mark.parametrize("hold_tiles", [False, True])
def test_a_training_that_stops_goes_on_as_if_it_had_not(tile_set: str, tmp_path: Path, hold_tiles: bool) -> None:
    config = _config(hold_tiles=hold_tiles)
    whole, stopped = str(tmp_path / "whole"), str(tmp_path / "stopped")
    train(config, data=tile_set, out=whole, without_ray=True)

    def stop(done: int, total: int, line: dict[str, Any]) -> None:
        if done == 11:
            raise KilledError

    with pytest.raises(KilledError):
        train(config, data=tile_set, out=stopped, without_ray=True, progress=stop)
    assert len(_lines(stopped)) == 1
    train(config, data=tile_set, out=stopped, without_ray=True, resume=True)
    assert _lines(whole) == _lines(stopped)
    bundle = read_classifier(whole)
    assert bundle.weights_sha256 == read_classifier(stopped).weights_sha256
    assert {label: each["n_tiles"] for label, each in bundle.training_data["classes"].items()} == {
        "normal": 90, "tumor": 40,
    }  # fmt: skip
    assert bundle.metrics.keys() >= {"cross_entropy", "accuracy"}


@pytest.mark.usefixtures("torch_alone")
def test_halves_of_a_batch_are_of_the_labels_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that have the colour of their number: of each label a pass takes every tile once, whatever its number."""
    for label, red, n in (("b", 0, 48), ("a", 255, 24)):
        (tmp_path / "tiles" / label).mkdir(parents=True)
        for i in range(n):
            tile = np.full((SIDE, SIDE, 3), (red, i, 0), np.uint8)
            (tmp_path / "tiles" / label / f"{i:02d}.png").write_bytes(encode_png(tile))
    seen: list[list[list[int]]] = []
    step = densenet.Trainee.step

    def recorded(trainee: densenet.Trainee, x: torch.Tensor, progress: float) -> Any:
        seen.append(((x[:, :2, 0, 0] + 1) * 127.5).round().int().tolist())
        return step(trainee, x, progress)

    monkeypatch.setattr(densenet.Trainee, "step", recorded)
    classes = RUN["classifier"] | {"classes": ["b", "a"]}
    train(_config(classifier=classes), data=str(tmp_path / "tiles"), out=str(tmp_path / "out"), without_ray=True)
    assert {tuple(red for red, _ in batch) for batch in seen} == {(0,) * 8 + (255,) * 8}
    for label, n in ((0, 48), (255, 24)):
        numbers = [number for batch in seen for red, number in batch if red == label]
        before = 256 // 2  # were looked at before the first step
        whole_passes = numbers[-before % n :][: len(numbers) // n * n - n]
        counts = np.bincount(whole_passes, minlength=n)
        assert len(whole_passes) >= n
        assert set(counts.tolist()) == {len(whole_passes) // n}


@pytest.mark.usefixtures("torch_alone")
def test_slides_of_both_labels_are_marked_as_seen(tmp_path: Path) -> None:
    rows = []
    for i, label in enumerate(("normal", "normal", "tumor")):
        image = np.array([210, 110, 180], np.uint8) - np.random.default_rng(i).integers(0, 80, (256, 256, 3), np.uint8)
        write_pyramid(tmp_path / f"s{i}.tif", image, mpp=1.0, tile_px=128)
        rows.append(SlideRow(f"s{i}", str(tmp_path / f"s{i}.tif"), label=label))
    write_manifest(rows, str(tmp_path / "m.csv"))
    config = _config(epochs=1, steps_per_epoch=1, tiles=RUN["tiles"] | {"quality": None})
    train(config, data=str(tmp_path / "m.csv"), out=str(tmp_path / "out"), without_ray=True)
    bundle = read_classifier(str(tmp_path / "out"))
    assert all(is_seen(row, bundle.trained_on) for row in rows)
    assert [each["n_slides"] for each in bundle.training_data["classes"].values()] == [2, 1]


def test_data_that_does_not_tell_the_classes_apart_is_refused(tile_set: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    other = RUN["classifier"] | {"classes": ["normal", "stroma"]}
    with pytest.raises(InputError, match=r"nothing is labelled 'stroma' \(found: normal, tumor\)"):
        check(_config(classifier=other), data=tile_set, out=out, without_ray=True)
    rows = [SlideRow("a", "a.tif", label="normal"), SlideRow("b", "b.tif", label="tumor"), SlideRow("c", "c.tif")]
    write_manifest(rows, str(tmp_path / "m.csv"))
    with pytest.raises(InputError, match="1 of 3 slides have no label"):
        check(_config(), data=str(tmp_path / "m.csv"), out=out, without_ray=True)
    with pytest.raises(InputError, match="batch_size 15 is no multiple of 2"):
        _config(batch_size=15)
    with pytest.raises(InputError, match="40 tiles are fewer than a batch of 64"):
        train(_config(batch_size=128), data=tile_set, out=out, without_ray=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")  # Ray, of its own options
def test_on_ray_it_sees_the_same_batches(ray_cluster: None, tile_set: str, tmp_path: Path) -> None:
    """A dataset for each label, whose parts of a batch are joined as they are without Ray."""
    config = _config(epochs=1)
    for without_ray in (True, False):
        train(config, data=tile_set, out=str(tmp_path / str(without_ray)), without_ray=without_ray)
    plain, on_ray = (_lines(str(tmp_path / str(without_ray)))[0] for without_ray in (True, False))
    assert on_ray == plain | {name: pytest.approx(plain[name], rel=1e-5) for name in ("cross_entropy", "accuracy")}
