"""Where a training stands, in files: nothing that is opened can run code.

A checkpoint folder holds `networks.safetensors` (keys `<network>.<tensor>`), `optimizers.safetensors` (keys
`<optimizer>.<parameter index>.<state>`), `progress.json`, and `samples.safetensors`: the tiles that people are shown.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from uadray.detectors.pixels import Pixels, to_input, to_pixels
from uadray.detectors.trainee import Trainee
from uadray.errors import InputError
from uadray.networks.outline import Networks
from uadray.networks.weights_file import load_networks, save_networks
from uadray.training.config import TrainConfig
from uadray.training.loop import IMAGES, Reached

NETWORKS, OPTIMIZERS, PROGRESS, SAMPLES = (
    "networks.safetensors", "optimizers.safetensors", "progress.json", "samples.safetensors",
)  # fmt: skip


def save_checkpoint(
    folder: Path, config: TrainConfig, trainee: Trainee, reached: Reached, place: dict[str, Any] | None = None,
    places: list[list[dict[str, int]]] | None = None,
) -> None:  # fmt: skip
    """Write all that a training needs to go on from here.

    Args:
        folder: gets the files.
        config: the run.
        trainee: as it is now.
        reached: what its host has reached.
        place: in the stream of tiles, of a training without Ray.
        places: in the streams of a training on Ray, for each label that of every worker.
    """
    shown = trainee.counts.get(IMAGES, 0)
    progress: dict[str, Any] = {
        "epochs_done": len(reached.lines), "epochs": config.epochs, "counts": trainee.counts, "lines": reached.lines,
        "tiles_taken": shown + config.tiles_taken(0), IMAGES: shown,
        **({"place": place} if place is not None else {}), **({"places": places} if places is not None else {}),
    }  # fmt: skip
    save_samples(folder, to_pixels(reached.samples))
    save_state(folder, trainee.networks, trainee.optimizers, progress)


def load_checkpoint(folder: Path, config: TrainConfig, trainee: Trainee, device: torch.device) -> Reached:
    """Make the trainee what it was when the checkpoint was saved, and tell what was reached then.

    Raises:
        InputError: a file is damaged, or belongs to another detector.
    """
    progress = load_state(folder, trainee.networks, trainee.optimizers)
    lines = list(progress["lines"])
    shown = config.workers * config.batch_size * config.steps_per_epoch * len(lines)
    trainee.counts.update({IMAGES: shown} | progress["counts"])  # checkpoints of earlier versions do not say it
    samples = to_input(load_samples(folder), config.input_px).to(device)
    return Reached(lines, samples)


def save_state(folder: Path, networks: Networks, optimizers: dict[str, Optimizer], progress: dict[str, Any]) -> None:
    """Write all that a run needs to go on from here."""
    save_networks(folder / NETWORKS, networks)
    tensors: dict[str, Tensor] = {}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": torch.as_tensor(v).contiguous().clone() for key, v in state.items()}
    save_file(tensors, folder / OPTIMIZERS)
    (folder / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")


def load_state(folder: Path, networks: Networks, optimizers: dict[str, Optimizer]) -> dict[str, Any]:
    """Fill networks and optimizers in place; returns what `save_state` was given as progress.

    Raises:
        InputError: a file is damaged, or belongs to another detector.
    """
    load_networks(folder / NETWORKS, networks)
    tensors = _read(folder / OPTIMIZERS)
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, t in tensors.items():
            owner, index, field = (*key.split(".", 2), "", "")[:3]
            if owner not in optimizers or not index.isdecimal() or not field:
                raise InputError(f"{folder}: {key} belongs to none of the optimizers {', '.join(optimizers)}")
            if owner == name:
                state.setdefault(int(index), {})[field] = t
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return load_progress(folder)


def load_progress(folder: Path) -> dict[str, Any]:
    """What `save_state` was given as progress.

    Raises:
        InputError: the file is damaged.
    """
    try:
        progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: progress.json cannot be read: {error}") from error
    return progress


def save_samples(folder: Path, pixels: Pixels) -> None:
    """Keep the tiles [n, h, w, 3] that are reconstructed at every epoch."""
    save_file({"pixels": torch.from_numpy(pixels).contiguous()}, folder / SAMPLES)


def load_samples(folder: Path) -> Pixels:
    """What `save_samples` kept."""
    pixels: Pixels = _read(folder / SAMPLES)["pixels"].numpy()
    return pixels


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own, OSError and ValueError alike
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error
