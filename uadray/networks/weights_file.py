"""Networks in a safetensors file, keys `<network>.<tensor>`: nothing that is opened can run code."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from uadray.errors import InputError
from uadray.networks.outline import Networks

_DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The types that networks and fitted arrays have, by the names of safetensors."""


def save_networks(path: Path, networks: Networks) -> None:
    """Write every tensor of every network."""
    tensors = {f"{name}.{key}": t for name, network in networks.items() for key, t in network.state_dict().items()}
    save_file({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, path)


def load_networks(
    path: Path, networks: Networks, *, names: Collection[str] | None = None, source: str = "", is_part: bool = False
) -> None:
    """Fill networks in place, once the file's header says that all of them fit; those on `meta` get memory only then.

    Args:
        path: of the file.
        networks: all that the file is of, by name.
        names: of those to fill; None fills all.
        source: what errors call the file; its path unless given.
        is_part: the file is of other networks as well, which are not looked at.

    Raises:
        InputError: the file is no safetensors, or names other tensors, shapes or types than the networks have.
    """
    source = source or str(path)
    with _opened(path, source) as file:
        _check_fit(file, networks, source, is_part=is_part)
        for name in networks if names is None else names:
            state = networks[name].state_dict()
            tensors = {key: file.get_tensor(f"{name}.{key}").clone() for key in state}  # copies: the file may go
            networks[name].load_state_dict(tensors, assign=any(t.is_meta for t in state.values()))


class NetworksInFile(Mapping[str, nn.Module]):
    """Networks by name, each filled from its file when it is first asked for; the others take no memory.

    Args:
        path: of the file, which has to stay as long as networks are asked for.
        networks: all that the file is of, from `uadray.networks.outline.outline`.
        source: what errors call the file.

    Raises:
        InputError: see `load_networks`; at once, for any of the networks.
    """

    def __init__(self, path: Path, networks: Networks, *, source: str) -> None:
        self._path, self._networks, self._source = path, networks, source
        self._filled: set[str] = set()
        load_networks(path, networks, names=(), source=source)

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._filled:
            load_networks(self._path, self._networks, names=[name], source=self._source)
            self._filled.add(name)
        return self._networks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)


@contextmanager
def _opened(path: Path, source: str) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="pt")
    except Exception as error:  # safetensors raises its own, OSError and ValueError alike
        raise InputError(f"{source}: not a readable safetensors file: {error}") from error
    with file:
        yield file


def _check_fit(file: Any, networks: Networks, source: str, *, is_part: bool) -> None:
    """Compare the header with the networks; no tensor is read."""
    keys = set(file.keys())
    foreign = sorted(key for key in keys if key.partition(".")[0] not in networks)
    if foreign and not is_part:
        raise InputError(f"{source}: {foreign[0]} belongs to none of the networks {', '.join(networks)}")
    for name, network in networks.items():
        own_keys = {key.removeprefix(f"{name}.") for key in keys if key.startswith(f"{name}.")}
        problems = list(_misfits(file, name, network, own_keys))
        if problems:
            more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise InputError(f"{source}: weights do not fit the {name}: {'; '.join(problems[:3])[:300]}{more}")


def _misfits(file: Any, name: str, network: nn.Module, keys: set[str]) -> Iterator[str]:
    """What is wrong with one network's tensors in the file, of which it has `keys`."""
    state = network.state_dict()
    yield from (f"it has no {key}" for key in sorted(keys - state.keys()))
    yield from (f"{key} is missing" for key in state if key not in keys)
    for key in keys & state.keys():
        tensor = file.get_slice(f"{name}.{key}")
        shape, kind = tuple(tensor.get_shape()), tensor.get_dtype()
        expected_shape, expected_kind = tuple(state[key].shape), _DTYPES.get(state[key].dtype)
        if (shape, kind) != (expected_shape, expected_kind):
            yield f"size mismatch for {key}: {kind} {shape}, expected {expected_kind} {expected_shape}"
