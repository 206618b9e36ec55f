"""Networks and optimizers in safetensors: nothing that is opened can run code.

A checkpoint folder holds `networks.safetensors` (keys `<network>.<tensor>`), `optimizers.safetensors` (keys
`<optimizer>.<parameter index>.<state>`), `progress.json`, and `samples.safetensors`: the tiles that people are shown.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from uadray.detectors.pixels import Pixels
from uadray.errors import InputError
from uadray.networks.outline import Networks

_DTYPES = {torch.float32: "F32", torch.int64: "I64"}
"""The types that networks have, by the names of safetensors."""


def save_networks(path: Path, networks: Networks) -> None:
    """Write every tensor of every network."""
    tensors = {f"{name}.{key}": t for name, network in networks.items() for key, t in network.state_dict().items()}
    save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, path)


def load_networks(path: Path, networks: Networks, *, names: Collection[str] | None = None, source: str = "") -> None:
    """Fill networks in place, once the file's header says that all of them fit; those on `meta` get memory only then.

    Args:
        path: of the file.
        networks: all that the file is of, by name.
        names: of those to fill; None fills all.
        source: what errors call the file; its path unless given.

    Raises:
        InputError: the file is no safetensors, or names other tensors, shapes or types than the networks have.
    """
    source = source or str(path)
    with _opened(path, source) as file:
        _check_fit(file, networks, source)
        for name in networks if names is None else names:
            state = networks[name].state_dict()
            own = {key: file.get_tensor(f"{name}.{key}").clone() for key in state}  # of its own: the file may go
            networks[name].load_state_dict(own, assign=any(t.is_meta for t in state.values()))


@contextmanager
def _opened(path: Path, source: str) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="pt")
    except Exception as error:  # safetensors raises its own, OSError and ValueError alike
        raise InputError(f"{source}: not a readable safetensors file: {error}") from error
    with file:
        yield file


def _check_fit(file: Any, networks: Networks, source: str) -> None:
    """Compare the header with the networks; no tensor is read."""
    there = set(file.keys())
    foreign = sorted(key for key in there if key.partition(".")[0] not in networks)
    if foreign:
        raise InputError(f"{source}: {foreign[0]} belongs to none of the networks {', '.join(networks)}")
    for name, network in networks.items():
        state = network.state_dict()
        own = {key.removeprefix(f"{name}.") for key in there if key.startswith(f"{name}.")}
        problems = [f"it has no {key}" for key in sorted(own - state.keys())]
        problems += [f"{key} is missing" for key in state if key not in own]
        for key in own & state.keys():
            found = file.get_slice(f"{name}.{key}")
            shape, kind = tuple(found.get_shape()), found.get_dtype()
            wanted, wanted_kind = tuple(state[key].shape), _DTYPES.get(state[key].dtype)
            if (shape, kind) != (wanted, wanted_kind):
                problems.append(f"size mismatch for {key}: {kind} {shape}, expected {wanted_kind} {wanted}")
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise InputError(f"{source}: weights do not fit the {name}: {'; '.join(problems[:3])[:300]}{more}")


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
