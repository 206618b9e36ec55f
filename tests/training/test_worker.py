"""Training on Ray and without it: the same trainee, the same data, losses that agree."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scrapes import awaited_run

from uadray.commands.train import train
from uadray.config import parse_config
from uadray.detectors.bundle import load_detector
from uadray.metrics import ERRORS, GPU_SECONDS, SECONDS, TILES, TRAIN_LOSS, TRAIN_STEP, WAIT_SECONDS
from uadray.reports.pictures import encode_png
from uadray.training.config import TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")  # Ray, of its own options

RUN: dict[str, Any] = {
    "name": "both", "detector": {"kind": "dpa", "input_px": 16, "width": 8, "halvings": 2, "layers": ["block0"]},
    "tiles": {"mpp": 1.0, "tile_px": 24, "min_tissue": 0.0}, "epochs": 3, "steps_per_epoch": 40, "batch_size": 8,
    "shuffle_tiles": 64, "threads": 1, "seed": 5,
}  # fmt: skip


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.ray
@pytest.mark.slow
def test_both_hosts_learn_alike(ray_cluster: None, tmp_path: Path) -> None:
    """Within a few per cent, since only the order of the tiles differs; and each says the same things of itself."""
    folder = tmp_path / "tiles" / "normal"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(400):
        tile = cv2.resize(rng.integers(60, 220, (4, 4, 3), dtype=np.uint8), (24, 24))
        (folder / f"{n:03d}.png").write_bytes(encode_png(tile))
    config = parse_config(TrainConfig, RUN, source="test")
    outs = {without_ray: tmp_path / f"out_{without_ray}" for without_ray in (True, False)}
    bundles = {
        flag: train(config, data=str(folder.parent), out=str(out), without_ray=flag) for flag, out in outs.items()
    }
    steps = RUN["epochs"] * RUN["steps_per_epoch"]
    expected: dict[tuple[str, str], float] = {
        (TILES, "train_step"): steps * RUN["batch_size"], (ERRORS, "train_step"): 0, (TRAIN_STEP, ""): steps,
        (GPU_SECONDS, "train_step"): 0,
    }  # fmt: skip
    run = awaited_run(expected, "train-", within_s=25)
    plain, on_ray = _lines(outs[True]), _lines(outs[False])
    assert [line.keys() for line in plain] == [line.keys() for line in on_ray]
    assert [(line["step"], line["phase"]) for line in plain] == [(line["step"], line["phase"]) for line in on_ray]
    for ours, theirs in zip(plain, on_ray, strict=True):
        assert ours["perceptual"] == pytest.approx(theirs["perceptual"], rel=0.1)
    assert plain[-1]["perceptual"] < 0.9 * plain[0]["perceptual"]
    assert bundles[True].training_data == bundles[False].training_data
    assert run[SECONDS, "train_step"] == pytest.approx(sum(line["seconds"] for line in on_ray), rel=0.05)
    waited = sum(line["waiting"] * line["seconds"] for line in on_ray)
    assert run[WAIT_SECONDS, "data"] == pytest.approx(waited, rel=0.02)
    assert run[TRAIN_LOSS, "perceptual"] == pytest.approx(on_ray[-1]["perceptual"], rel=0.2)
    pixels = rng.integers(0, 255, (4, 24, 24, 3), dtype=np.uint8)
    ours, theirs = (load_detector(str(outs[flag]))(pixels).score for flag in (True, False))
    np.testing.assert_allclose(ours, theirs, rtol=0.25)
