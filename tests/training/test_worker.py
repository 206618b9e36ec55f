"""Training on Ray and without it: the same trainee, the same tiles, the same losses."""

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ray
import torch
from scrapes import awaited_run

from uadray.commands import train as commands
from uadray.config import parse_config
from uadray.detectors.bundle import load_detector
from uadray.metrics import ERRORS, GPU_SECONDS, SECONDS, TILES, TRAIN_LOSS, TRAIN_STEP, WAIT_SECONDS
from uadray.networks.outline import Networks
from uadray.reports.pictures import encode_png
from uadray.training.config import TrainConfig

pytestmark = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")  # Ray, of its own options

RUN: dict[str, Any] = {
    "name": "both", "detector": {"kind": "dpa", "input_px": 16, "width": 8, "halvings": 2, "layers": ["block0"]},
    "tiles": {"mpp": 1.0, "tile_px": 24, "min_tissue": 0.0}, "epochs": 4, "steps_per_epoch": 40, "batch_size": 8,
    "shuffle_tiles": 64, "threads": 1, "seed": 5, "validate_every": 1,
}  # fmt: skip


class Judge:
    """A validator that finds a figure at the first epoch and the last; between them it raises, then dies."""

    def __init__(self, calls: Path, *, dies: bool) -> None:
        self._calls, self._dies = calls, dies

    def __call__(self, config: TrainConfig, networks: Networks, device: str) -> dict[str, float]:
        with self._calls.open("a") as file:
            file.write("x")
        call = self._calls.stat().st_size
        torch.manual_seed(call)  # of no concern to the training
        if call == 2:
            raise RuntimeError("no such weights")
        if call in (3, 4) and self._dies:  # a task whose process died is tried once more
            os.kill(os.getpid(), signal.SIGKILL)
        if call == 3:
            return {"weights": math.inf}
        return {"weights": sum(float(p.detach().abs().sum()) for n in networks.values() for p in n.parameters())}


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.ray
@pytest.mark.slow
def test_both_hosts_learn_the_same(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every loss of every epoch, from the same tiles; and each says the same things of itself.

    Validations are made beside the training on Ray, and within it elsewhere: those that fail are told, and no more.
    """
    folder = tmp_path / "tiles" / "normal"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for n in range(400):
        tile = cv2.resize(rng.integers(60, 220, (4, 4, 3), dtype=np.uint8), (24, 24))
        (folder / f"{n:03d}.png").write_bytes(encode_png(tile))
    config = parse_config(TrainConfig, RUN, source="test")
    outs = {without_ray: tmp_path / f"out_{without_ray}" for without_ray in (True, False)}
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    bundles = {}
    for flag, out in outs.items():
        judge = Judge(tmp_path / f"calls_{flag}", dies=not flag)
        monkeypatch.setattr(commands, "_validator", lambda *_, judge=judge: judge)
        bundles[flag] = commands.train(config, data=str(folder.parent), out=str(out), without_ray=flag)
    steps = RUN["epochs"] * RUN["steps_per_epoch"]
    expected: dict[tuple[str, str], float] = {
        (TILES, "train_step"): steps * RUN["batch_size"], (ERRORS, "train_step"): 0, (TRAIN_STEP, ""): steps,
        (GPU_SECONDS, "train_step"): 0,
    }  # fmt: skip
    run = awaited_run(expected, "train-", within_s=25)
    plain, on_ray = _lines(outs[True]), _lines(outs[False])
    named = ("epoch", "step", "phase", "images_shown")
    for ours, theirs in zip(plain, on_ray, strict=True):
        assert [ours[name] for name in named] == [theirs[name] for name in named]
        assert ours["perceptual"] == pytest.approx(theirs["perceptual"], rel=1e-6)
    assert plain[-1]["perceptual"] < 0.9 * plain[0]["perceptual"]
    for found, failures in ((plain, "weights is not finite"), (on_ray, "its process died 2 times")):
        assert [line.get("validated") for line in found] == [["weights"], None, None, ["weights"]]
        assert f"the validation of epoch 2 failed, and the training goes on: {failures}" in caplog.text
    assert caplog.text.count("the validation of epoch 1 failed, and the training goes on: no such weights") == 2
    assert plain[0]["weights"] == on_ray[0]["weights"]
    assert plain[3]["weights"] == on_ray[3]["weights"] != plain[0]["weights"]
    assert bundles[True].training_data == bundles[False].training_data
    assert run[SECONDS, "train_step"] == pytest.approx(sum(line["seconds"] for line in on_ray), rel=0.05)
    waited = sum(line["waiting"] * line["seconds"] for line in on_ray)
    assert run[WAIT_SECONDS, "data"] == pytest.approx(waited, rel=0.02)
    assert run[TRAIN_LOSS, "perceptual"] == pytest.approx(on_ray[-1]["perceptual"], rel=0.2)
    pixels = rng.integers(0, 255, (4, 24, 24, 3), dtype=np.uint8)
    ours, theirs = (load_detector(str(outs[flag]))(pixels).score for flag in (True, False))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
