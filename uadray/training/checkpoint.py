"""Networks and optimizers in safetensors: nothing that is opened can run code.

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

from uadray.errors import InputError
from uadray.models.build import Networks
from uadray.models.pixels import Pixels


def save_networks(path: Path, networks: Networks) -> None:
    """Write every tensor of every network."""
    tensors = {f"{name}.{key}": t for name, network in networks.items() for key, t in network.state_dict().items()}
    save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, path)


def load_networks(path: Path, networks: Networks) -> None:
    """Fill networks in place.

    Raises:
        InputError: the file is no safetensors, or names other tensors or shapes than the networks have.
    """
    tensors = _read(path)
    foreign = sorted(key for key in tensors if key.partition(".")[0] not in networks)
    if foreign:
        raise InputError(f"{path}: {foreign[0]} belongs to none of the networks {', '.join(networks)}")
    for name, network in networks.items():
        own = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
        try:
            network.load_state_dict(own)
        except RuntimeError as error:
            raise InputError(f"{path}: weights do not fit the {name}: {' '.join(str(error).split())[:300]}") from error


def save_state(folder: Path, networks: Networks, optimizers: dict[str, Optimizer], progress: dict[str, Any]) -> None:
    """Write all that a run needs to go on from here."""
    save_networks(folder / "networks.safetensors", networks)
    tensors: dict[str, Tensor] = {}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": torch.as_tensor(v).contiguous().clone() for key, v in state.items()}
    save_file(tensors, folder / "optimizers.safetensors")
    (folder / "progress.json").write_text(json.dumps(progress), encoding="utf-8")


def load_state(folder: Path, networks: Networks, optimizers: dict[str, Optimizer]) -> dict[str, Any]:
    """Fill networks and optimizers in place; returns what `save_state` was given as progress.

    Raises:
        InputError: a file is damaged, or belongs to another detector.
    """
    load_networks(folder / "networks.safetensors", networks)
    tensors = _read(folder / "optimizers.safetensors")
    for name, optimizer in optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, t in tensors.items():
            owner, index, field = (*key.split(".", 2), "", "")[:3]
            if owner not in optimizers or not index.isdecimal() or not field:
                raise InputError(f"{folder}: {key} belongs to none of the optimizers {', '.join(optimizers)}")
            if owner == name:
                state.setdefault(int(index), {})[field] = t
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    try:
        progress: dict[str, Any] = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: progress.json cannot be read: {error}") from error
    return progress


def save_samples(folder: Path, pixels: Pixels) -> None:
    """Keep the tiles [n, h, w, 3] that are reconstructed at every epoch."""
    save_file({"pixels": torch.from_numpy(pixels).contiguous()}, folder / "samples.safetensors")


def load_samples(folder: Path) -> Pixels:
    """What `save_samples` kept."""
    found: Pixels = _read(folder / "samples.safetensors")["pixels"].numpy()
    return found


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own, OSError and ValueError alike
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error
