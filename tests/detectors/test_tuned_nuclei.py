"""Tuned nuclei: what learns and what stands still, how it begins, and the scale of its scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks_watch import moved, state_of
from pydantic import ValidationError

from uadray.detectors import tuned_nuclei
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.bundle import load_detector, write_bundle
from uadray.detectors.pixels import Pixels, to_input
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.detectors.tuned_nuclei import Trunk, balanced_cross_entropy
from uadray.networks.backbones import build_backbone
from uadray.tiles.spec import TileSpec
from uadray.tilesets import containers

pytestmark = pytest.mark.usefixtures("torch_alone")

CONFIG = tuned_nuclei.Config(kind="tuned_nuclei", train_blocks=3, blocks_rate=0.3)


@pytest.fixture(scope="module")
def tiles(data_dir: Path) -> Pixels:
    """[32, 96, 96, 3] Normal tiles of lymph nodes."""
    data = str(data_dir / "pcam" / "train.zip")
    refs = [ref for ref in containers.list_tiles(data) if ref.label == "normal"][::300][:32]
    return np.stack([pixels for _, pixels, _ in containers.read_tiles(data, refs) if pixels is not None])


@pytest.mark.parametrize(
    "values",
    [
        {"zoom_least": 2.0, "zoom_most": 1.5},
        {"input_px": 32, "mpp": 0.5},
        {"layers": ["block16"]},
        {"layers": ["block3"], "train_blocks": 4},
    ],
)
def test_configurations_that_cannot_be_built(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        tuned_nuclei.Config.model_validate({"kind": "tuned_nuclei"} | values)


@pytest.mark.parametrize("train_blocks", [0, 1, 5, 10])
@pytest.mark.parametrize("layers", [("block5", "block10"), ("block10", "block7", "block6")])
def test_the_untrained_trunk_is_the_published_network_wherever_it_is_cut(
    layers: tuple[str, ...], train_blocks: int
) -> None:
    config = tuned_nuclei.Config(kind="tuned_nuclei", layers=layers, train_blocks=train_blocks)
    networks = build_networks(config)
    x = torch.rand(2, 3, 96, 96) * 2 - 1
    found = Trunk(config, networks["backbone"], networks["tuned"])(x)
    expected = build_backbone("efficientnet_lite0", layers)(x)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert len(networks["tuned"].get_submodule("blocks")) == train_blocks  # type: ignore[arg-type]


def test_what_learns_and_what_stands_still(tiles: Pixels) -> None:
    networks = build_networks(CONFIG)
    trainee = build_trainee(CONFIG, networks)
    x = to_input(tiles[:16], 96)
    trainee.prepare(x)
    before, statistics = state_of(networks), _running(networks["tuned"])
    losses = [float(trainee.step(x, 0.0)["loss"]) for _ in range(4)]
    assert moved(networks, before) == {"tuned", "classifier"}
    assert all(torch.equal(a, b) for a, b in zip(statistics, _running(networks["tuned"]), strict=True))
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4), "it begins without an opinion"
    assert losses[-1] < losses[0]
    before = state_of(networks)
    trainee.step(x, 0.95)
    assert moved(networks, before) == {"classifier"}, "only the scale"


def _running(network: torch.nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for name, buffer in network.named_buffers() if "running" in name]


def test_normal_tiles_have_scores_of_mean_0_and_deviation_1(tiles: Pixels, tmp_path: Path) -> None:
    networks = build_networks(CONFIG)
    trainee = build_trainee(CONFIG, networks)
    x = to_input(tiles, 96)
    trainee.prepare(x)
    for _ in range(4):
        trainee.step(x[:16], 0.1)
    assert float(trainee.step(x[:16], 0.92)["deviation"]) == pytest.approx(1.0, rel=0.05)
    trainee.step(x[16:], 0.95)
    detector = build_detector(CONFIG, networks)
    scored = detector(tiles)
    assert scored.score.mean() == pytest.approx(0, abs=1e-3)
    assert scored.score.std() == pytest.approx(1, rel=1e-3)
    assert scored.cells is not None
    assert scored.cells.shape[1:] == (6, 6)
    uri = str(tmp_path / "bundle")
    write_bundle(
        uri, networks, detector=CONFIG, name="t", tiles=TileSpec(mpp=0.972, tile_px=96), training_data={}, metrics={},
        commit="", licences={},
    )  # fmt: skip
    np.testing.assert_allclose(load_detector(uri)(tiles).score, scored.score, atol=1e-5)


def test_tiles_without_nuclei_are_refused_in_words() -> None:
    trainee = build_trainee(CONFIG, build_networks(CONFIG))
    glass = torch.full((8, 3, 96, 96), 0.9)
    trainee.prepare(glass)
    assert np.isfinite(float(trainee.step(glass, 0.0)["loss"]))
    with pytest.raises(UnsuitableTilesError, match="none rich in nuclei"):
        trainee.step(glass, 0.95)


def test_both_kinds_of_cells_weigh_the_same() -> None:
    logits = torch.tensor([[[2.0, 2.0, 2.0, -1.0]]])
    normal, enlarged = torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), torch.tensor([[[0.0, 0.0, 0.0, 1.0]]])
    loss, margin = balanced_cross_entropy(logits, normal, enlarged)
    assert float(loss) == pytest.approx((np.log1p(np.exp(2)) + np.log1p(np.exp(1))) / 2, rel=1e-5)
    assert float(margin) == pytest.approx(-3.0)
