"""Validations of a training without Ray: figures of a checkpoint, which the training does not feel."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from uadray.config import parse_config
from uadray.networks.outline import Networks
from uadray.training.array_source import ArraySource
from uadray.training.config import TrainConfig
from uadray.training.loop import Line
from uadray.training.plain import train_plain
from uadray.training.validation import Validator

pytestmark = pytest.mark.usefixtures("torch_alone")

RUN: dict[str, Any] = {
    "name": "v", "generator": {"kind": "wgan_gp", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 2},
    "tiles": {"mpp": 1.0, "tile_px": 16}, "epochs": 5, "steps_per_epoch": 3, "batch_size": 4, "shuffle_tiles": 32,
    "threads": 1,
}  # fmt: skip
TILES = ArraySource(np.random.default_rng(0).integers(0, 255, (300, 16, 16, 3), dtype=np.uint8), 0)


def _trained(out: Path, validator: Validator | None, **changes: Any) -> tuple[list[Line], list[Line]]:
    """Lines of the epochs, without their pace, and of the validations."""
    told: list[Line] = []
    config = parse_config(TrainConfig, RUN | changes, source="test")
    train_plain(config, TILES, out=str(out), listener=lambda lines, _: told.extend(lines), validator=validator)
    pace = {"seconds", "waiting", "tiles_per_second"}
    epochs = [{k: v for k, v in line.items() if k not in pace} for line in told if line.get("end_of_epoch")]
    return epochs, [line for line in told if line.get("validated")]


def _meddles(config: TrainConfig, networks: Networks, device: str) -> dict[str, float]:
    """Takes random numbers, changes what it is given, and raises at every second call."""
    torch.manual_seed(3)
    weight = next(networks["generator"].parameters())
    figure = float(weight.detach().abs().sum())
    with torch.no_grad():
        weight.zero_()
    if int(1e6 * figure) % 2:
        raise RuntimeError("odd")
    return {"figure": figure}


def test_a_training_does_not_feel_its_validations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone, none = _trained(tmp_path / "alone", None)
    assert none == []
    judged, figures = _trained(tmp_path / "judged", _meddles, validate_every=1)
    assert judged == alone
    failures = caplog.text.count("failed, and the training goes on: odd")
    assert len(figures) + failures == 5
    assert all(line["step"] == 3 * (line["epoch"] + 1) for line in figures)


def test_the_last_checkpoint_is_validated_too(tmp_path: Path) -> None:
    _, figures = _trained(tmp_path, lambda *_: {"figure": 1.0}, validate_every=2)
    assert [line["epoch"] for line in figures] == [1, 3, 4]
    assert figures[0] == {"epoch": 1, "step": 6, "validated": True, "figure": 1.0}


def test_what_is_no_number_is_no_figure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, figures = _trained(tmp_path, lambda *_: {"figure": float("nan")}, validate_every=5)
    assert figures == []
    assert "the validation of epoch 4 failed, and the training goes on: figure is not finite" in caplog.text


def test_a_group_cannot_be_larger_at_the_least_than_at_the_most() -> None:
    with pytest.raises(ValidationError, match="min_workers 3 is more than workers 2"):
        TrainConfig.model_validate(RUN | {"min_workers": 3, "workers": 2})
