"""What a training finds of itself between its checkpoints, on copies of its networks, off its path."""

import math
from collections.abc import Callable
from pathlib import Path

from uadray.errors import WorkError
from uadray.networks.outline import Networks
from uadray.networks.weights_file import load_networks
from uadray.training.checkpoint import NETWORKS, load_progress
from uadray.training.config import TrainConfig
from uadray.training.loop import Line
from uadray.training.subject import build_networks

Validator = Callable[[TrainConfig, Networks, str], dict[str, float]]
"""Of a configuration, the networks of a checkpoint and a device: figures by name. May be pickled."""


def is_due(config: TrainConfig, epochs_done: int) -> bool:
    """Whether a checkpoint is validated: each `validate_every`-th, and the last."""
    return config.validate_every > 0 and (
        epochs_done % config.validate_every == 0 or epochs_done == config.epochs
    )  # fmt: skip


def judged(config: TrainConfig, validator: Validator, folder: Path, device: str) -> Line:
    """The line of metrics of a checkpoint's validation: `epoch`, `step`, `validated`, and figures.

    Args:
        config: of the training.
        validator: gets networks of its own, so that it cannot change the training's.
        folder: of the checkpoint.
        device: for the validator.

    Raises:
        WorkError: a figure is no number.
    """
    networks = build_networks(config, pretrained=False)
    load_networks(folder / NETWORKS, networks)
    reached = load_progress(folder)["lines"][-1]
    figures = {name: float(value) for name, value in validator(config, networks, device).items()}
    if bad := [name for name, value in figures.items() if not math.isfinite(value)]:
        raise WorkError(f"{', '.join(bad)} is not finite")
    return {"epoch": reached["epoch"], "step": reached["step"], "validated": True} | figures


def failed(epoch: int, why: str) -> str:
    """What is logged of a validation that gave no figures."""
    return f"the validation of epoch {epoch} failed, and the training goes on: {why}"
