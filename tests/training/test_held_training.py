"""A training in one process whose tiles lie on its device, in bfloat16, on a CPU and a GPU: whole, and resumed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from uadray.commands.train import check, train
from uadray.config import parse_config
from uadray.detectors.bundle import load_detector, read_bundle
from uadray.errors import InputError
from uadray.reports.pictures import encode_png
from uadray.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("torch_alone")

RUN: dict[str, Any] = {
    "name": "held", "tiles": {"mpp": 1.0, "tile_px": 24, "min_tissue": 0.0}, "epochs": 2, "steps_per_epoch": 3,
    "batch_size": 8, "hold_tiles": True, "bf16": True, "stain_augment": 0.1, "threads": 1,
    "detector": {"kind": "fanogan", "input_px": 16, "width": 4, "latent_dim": 8, "critic_steps": 1},
}  # fmt: skip


class KilledError(Exception):
    """As a process that is killed in its second epoch."""


@pytest.fixture(scope="module")
def tile_set(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("held") / "normal"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(40):
        (folder / f"{n:03d}.png").write_bytes(encode_png(rng.integers(0, 256, (24, 24, 3), np.uint8)))
    return str(folder.parent)


def _config(device: str) -> TrainConfig:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU: training there is not checked")
    return parse_config(TrainConfig, RUN | {"use_gpu": device == "cuda"}, source="test")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_training_on_held_tiles_that_stops_goes_on_as_if_it_had_not(
    tile_set: str, tmp_path: Path, device: str
) -> None:
    config = _config(device)
    whole, stopped = str(tmp_path / "whole"), str(tmp_path / "stopped")
    train(config, data=tile_set, out=whole, without_ray=True)

    def stop(done: int, total: int, line: dict[str, Any]) -> None:
        if done == 5:
            raise KilledError

    with pytest.raises(KilledError):
        train(config, data=tile_set, out=stopped, without_ray=True, progress=stop)
    train(config, data=tile_set, out=stopped, without_ray=True, resume=True)
    tiles = np.random.default_rng(1).integers(0, 256, (6, 24, 24, 3), np.uint8)
    scores = [load_detector(uri)(tiles).score for uri in (whole, stopped)]
    assert np.isfinite(scores).all()
    if device == "cpu":  # a GPU adds in any order
        assert read_bundle(whole).weights_sha256 == read_bundle(stopped).weights_sha256
    np.testing.assert_allclose(scores[0], scores[1], rtol=0.05)


def test_ray_and_the_other_stream_are_refused(tile_set: str, tmp_path: Path) -> None:
    config = _config("cpu")
    with pytest.raises(InputError, match="hold_tiles is for one process: add --without-ray"):
        check(config, data=tile_set, out=str(tmp_path / "ray"))
    (tmp_path / "slides.csv").write_text("slide_id,uri\na,a.tif\n")
    with pytest.raises(InputError, match="a tile set, not slides"):
        check(config, data=str(tmp_path / "slides.csv"), out=str(tmp_path / "slides"), without_ray=True)
    train(config, data=tile_set, out=str(tmp_path / "out"), without_ray=True)
    streamed = config.model_copy(update={"hold_tiles": False})
    with pytest.raises(InputError, match=r"another configuration \(hold_tiles differ\)"):
        check(streamed, data=tile_set, out=str(tmp_path / "out"), resume=True, without_ray=True)
