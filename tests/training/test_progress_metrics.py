"""What a training tells: its losses by name, its pace, how long it waited."""

from collections.abc import Iterator
from typing import Any

import pytest

from uadray import metrics
from uadray.config import parse_config
from uadray.training.board import Tally
from uadray.training.config import TrainConfig
from uadray.training.progress_metrics import TrainingMetrics

RUN: dict[str, Any] = {
    "name": "t", "detector": {"kind": "dpa", "input_px": 16, "width": 8, "halvings": 2, "layers": ["block0"]},
    "tiles": {"mpp": 1.0, "tile_px": 24},
}  # fmt: skip


@pytest.fixture
def ended() -> Iterator[None]:
    yield
    metrics.end_run()


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("use_gpu", [False, True])
def test_a_training_counts_from_zero(use_gpu: bool) -> None:
    config = parse_config(TrainConfig, RUN | {"use_gpu": use_gpu}, source="test")
    told = TrainingMetrics(config, "train-0", cores=(4, 1))
    assert metrics.told()[metrics.TILES, ("train_step",)] == 0
    assert (metrics.TRAIN_STEP, ()) not in metrics.told()
    losses = {"mse": (2.5, 5), "bad": (float("inf"), 5)}
    told.tell([{"step": 3}, {"step": 5, "fid": 12.5}], Tally(40, 10.0, 1.5, losses))
    told.tell([], Tally())
    values = metrics.told()
    assert values[metrics.TILES, ("train_step",)] == 40
    assert values[metrics.SECONDS, ("train_step",)] == 10.0
    assert values[metrics.WAIT_SECONDS, ("data",)] == 1.5
    assert values[metrics.GPU_SECONDS, ("train_step",)] == (8.5 if use_gpu else 0)
    assert (values[metrics.TRAIN_STEP, ()], values[metrics.TRAIN_FID, ()]) == (5, 12.5)
    assert {labels: value for (name, labels), value in values.items() if name == metrics.TRAIN_LOSS} == {("mse",): 0.5}
    info = next(labels for name, labels in values if name == metrics.RUN_INFO)
    assert info[:3] == ("train", "", "dpa")
