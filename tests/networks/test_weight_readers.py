"""Files of weights that would run code, or are broken, are refused unrun."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uadray.networks import weight_readers as readers
from uadray.networks import weight_sources as sources


class _Runs:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_malicious_pickle_is_refused_unrun(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "evil.ckpt", tmp_path / "it-ran"
    path.write_bytes(pickle.dumps({"net": {"kernel": _Runs(trace)}}, protocol))
    with pytest.raises(sources.SourceError, match=r"evil.ckpt is not a pickle of plain numpy arrays: it asks for"):
        readers.read_numpy_pickle(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # noqa: S301  # the same bytes do run where anything is admitted
    assert trace.exists()


def test_a_malicious_checkpoint_is_refused_unrun(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "it-ran"
    torch.save({"features.0.weight": _Runs(trace)}, path)
    with pytest.raises(sources.SourceError, match=r"evil.pth is not a checkpoint of plain tensors"):
        readers.torchvision_trunk(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "value",
    [
        {"a": np.array([object()])},
        {"a": np.array(["text"])},
        {"a": np.zeros(2)},  # float64
        {"a": 1.0},
        {1: np.zeros(2, np.float32)},
        [np.zeros(2, np.float32)],
    ],
)
def test_other_values_than_float32_arrays_are_refused(tmp_path: Path, value: object) -> None:
    path = tmp_path / "odd.ckpt"
    path.write_bytes(pickle.dumps(value, 3))
    with pytest.raises(sources.SourceError, match=r"odd.ckpt "):
        readers.read_numpy_pickle(path)


@pytest.mark.parametrize("data", [b"", b"\x80\x03", b"garbage", b"cbuiltins\neval\n(S'1'\ntR."])
def test_broken_pickles_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes(data)
    with pytest.raises(sources.SourceError, match=r"broken.ckpt is not a pickle"):
        readers.read_numpy_pickle(path)


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    tree = {"net": {"Conv_0": {"kernel": np.random.default_rng(0).random((3, 3, 2, 4), np.float32)}}}
    path = tmp_path / "plain.ckpt"
    path.write_bytes(pickle.dumps(tree, 3))
    kernel = readers.read_numpy_pickle(path)["net"]["Conv_0"]["kernel"]
    np.testing.assert_array_equal(kernel, tree["net"]["Conv_0"]["kernel"])
