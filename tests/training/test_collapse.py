"""A collapse is found when it is one, ends the run before its checkpoint, and is said again when the run goes on."""

import itertools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from uadray.commands.train import train
from uadray.config import parse_config
from uadray.detectors.trainee import Trainee
from uadray.reports.pictures import encode_png
from uadray.training import plain
from uadray.training.collapse import CollapsedError, Newest, diversity
from uadray.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("torch_alone")

RUN: dict[str, Any] = {
    "name": "r", "tiles": {"mpp": 1.0, "tile_px": 24, "min_tissue": 0.0}, "epochs": 4, "steps_per_epoch": 20,
    "generator": {"kind": "dcgan", "input_px": 16, "width": 4, "latent_dim": 8, "learning_rate": 0.02},
    "batch_size": 16, "shuffle_tiles": 64, "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiles") / "normal"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(64):
        tile = cv2.resize(rng.integers(60, 220, (4, 4, 3), dtype=np.uint8), (24, 24))
        (folder / f"{n}.png").write_bytes(encode_png(tile))
    return str(folder.parent)


def _epochs(out: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def _by_hand(x: np.ndarray[Any, Any], side: int) -> float:
    """The median distance to the nearest other, of blocks averaged in numpy."""
    n, channels, px, _ = x.shape
    small = x.reshape(n, channels, side, px // side, side, px // side).mean(axis=(3, 5))
    nearest = [min(float(np.sqrt(((small[i] - small[j]) ** 2).sum())) for j in range(n) if j != i) for i in range(n)]
    return float(np.median(nearest))


def test_diversity_by_hand() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.normal(size=(10, 3, 32, 32)), 0.3 * rng.normal(size=(10, 3, 32, 32)) + 0.5
    expected = max(_by_hand(fake, side) / _by_hand(real, side) for side in (4, 8, 16))
    assert diversity(torch.from_numpy(fake), torch.from_numpy(real)) == pytest.approx(expected, rel=1e-4)


def test_pictures_with_twins_have_no_diversity() -> None:
    real = torch.rand(32, 3, 16, 16)
    assert diversity(real, real) == 1
    assert diversity(real[:1].expand(32, 3, 16, 16), real) == 0
    assert diversity(real[:4].repeat(8, 1, 1, 1), real) == 0  # four pictures, again and again
    assert diversity(real.mean(dim=(2, 3), keepdim=True).expand_as(real) + real / 100, real) > 0.03


def test_the_newest_tiles_are_remembered() -> None:
    stream = Newest(torch.full((24, 1), float(i)) for i in itertools.count())
    next(stream)
    assert len(stream.tiles()) == 24
    for _ in range(8):
        next(stream)
    assert stream.tiles().unique(return_counts=True)[1].tolist() == [16, 24, 24]
    assert stream.tiles()[-1].item() == 8


def test_a_planted_collapse(tiles: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator is made constant in the third epoch; without that the same training is healthy."""
    out, build = tmp_path / "out", plain.build_trainee
    config = parse_config(TrainConfig, RUN, source="test")

    def planted(config: TrainConfig, networks: dict[str, nn.Module], **options: Any) -> Trainee:
        trainee = build(config, networks, **options)
        learn = trainee.step

        def step(x: Tensor, progress: float) -> Any:
            losses = learn(x, progress)
            if trainee.counts.get("images_shown", 0) >= 50 * 16:
                for parameter in networks["generator"].parameters():
                    parameter.data.zero_()
            return losses

        monkeypatch.setattr(trainee, "step", step)
        return trainee

    monkeypatch.setattr(plain, "build_trainee", planted)
    said = (
        r"collapsed in epoch 2 \(step 60\).* by 0\.0% .*after epoch 1 is the last good.*lower generator.learning_rate"
    )
    with pytest.raises(CollapsedError, match=said):
        train(config, data=tiles, out=str(out), without_ray=True)
    assert _epochs(out) == plain_epochs(out) == [0, 1]
    with pytest.raises(CollapsedError, match=said):
        train(config, data=tiles, out=str(out), without_ray=True, resume=True)
    monkeypatch.setattr(plain, "build_trainee", build)
    with pytest.raises(CollapsedError, match=said):  # said again, not tried again
        train(config, data=tiles, out=str(out), without_ray=True, resume=True)
    kept = config.model_copy(update={"stop_on_collapse": False})
    bundle = train(kept, data=tiles, out=str(out), without_ray=True, resume=True)
    assert bundle.metrics["diversity"] > 0.3
    assert _epochs(out) == [0, 1, 2, 3]


def plain_epochs(out: Path) -> list[int]:
    """Epochs of the checkpoints that are kept."""
    return [done - 1 for done in plain.epochs_kept(str(out))]
