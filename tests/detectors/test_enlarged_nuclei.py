"""Enlarged nuclei: the scale of the scores, the phases of a training, and that it finds them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from networks_watch import moved, state_of
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from uadray.detectors import enlarged_nuclei
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.bundle import load_detector, read_bundle, write_bundle
from uadray.detectors.enlarged_nuclei import CellFeatures, cell_labels, tile_scores
from uadray.detectors.pixels import Pixels, to_input, to_pixels
from uadray.detectors.trainee import UnsuitableTilesError
from uadray.detectors.views.enlarged import magnified, make_views
from uadray.detectors.views.scanners import CHANGES
from uadray.networks.outline import Networks
from uadray.tiles.spec import TileSpec
from uadray.tilesets import containers

pytestmark = pytest.mark.usefixtures("torch_alone")

CONFIG = enlarged_nuclei.Config(kind="enlarged_nuclei", heads=2)


@pytest.fixture(scope="module")
def tiles(data_dir: Path) -> Pixels:
    """[96, 96, 96, 3] Normal tiles of lymph nodes."""
    data = str(data_dir / "pcam" / "train.zip")
    refs = [ref for ref in containers.list_tiles(data) if ref.label == "normal"][::100][:96]
    return np.stack([pixels for _, pixels, _ in containers.read_tiles(data, refs) if pixels is not None])


@pytest.fixture(scope="module")
def trained(tiles: Pixels) -> Networks:
    """Networks after eight steps on 48 of the tiles."""
    torch.manual_seed(0)
    return _trained(tiles[:48])


def _trained(tiles: Pixels, steps: int = 8) -> Networks:
    networks = build_networks(CONFIG)
    trainee = build_trainee(CONFIG, networks)
    x = to_input(tiles, 96)
    for step in range(steps):
        trainee.step(x[torch.randperm(len(x))[:24]], step / (steps - 1))
    return networks


@pytest.mark.parametrize(
    "values",
    [
        {"zoom_least": 2.0, "zoom_most": 1.5},
        {"input_px": 32, "mpp": 0.5},
        {"input_px": 2048, "backbone_mpp": 0.1},
        {"mpp": 3.0},
    ],
)
def test_configurations_that_cannot_be_built(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        enlarged_nuclei.Config.model_validate({"kind": "enlarged_nuclei"} | values)


@pytest.mark.parametrize(
    ("mpp", "input_px", "side_px"), [(0.972, 96, 192), (0.5, 192, 192), (0.25, 384, 192), (0.5, 256, 256)]
)
def test_the_backbone_sees_one_resolution_whatever_the_tiles_have(mpp: float, input_px: int, side_px: int) -> None:
    config = enlarged_nuclei.Config(kind="enlarged_nuclei", mpp=mpp, input_px=input_px)
    assert config.side_px == side_px


def test_the_mpp_is_that_of_the_tiles() -> None:
    tiles = TileSpec(mpp=0.5, tile_px=192)
    tiles.check_mpp(0.5)
    tiles.check_mpp(None)
    with pytest.raises(ValueError, match=r"detector.mpp 0.972 is not tiles.mpp 0.5"):
        tiles.check_mpp(0.972)


def test_a_score_is_the_mean_of_cells_and_of_the_highest() -> None:
    cells = torch.zeros(2, 5, 5)
    cells[1, :4, :4] = 16.0  # of the four squares of 4 x 4: one full, two with twelve, one with nine of sixteen
    scores = tile_scores(cells)
    assert scores[0] == 0
    assert float(scores[1]) == pytest.approx((16 + 12 + 12 + 9) / 4 + 16)


def test_around_a_paste_into_any_tile_nothing_counts_as_normal() -> None:
    tiles = torch.zeros(3, 3, 32, 32)
    mask = torch.zeros(3, 1, 32, 32)
    mask[:, :, :16] = 1
    views = enlarged_nuclei.Views(tiles, mask, ("enlarged", "pasted", "pasted_rich"))
    normal, enlarged = cell_labels(views, 2)
    assert enlarged.tolist() == [[[1, 1], [0, 0]]] * 3
    assert normal.tolist() == [[[0, 0], [1, 1]], [[0, 0], [0, 0]], [[0, 0], [1, 1]]]


def test_only_the_head_changes(tiles: Pixels) -> None:
    networks = build_networks(CONFIG)
    trainee = build_trainee(CONFIG, networks)
    before = state_of(networks)
    trainee.step(to_input(tiles[:12], 96), 0.0)
    assert moved(networks, before) == {"head"}
    assert trainee.optimizers == {}


def test_phases_and_what_is_reported(tiles: Pixels) -> None:
    networks = build_networks(CONFIG)
    trainee = build_trainee(CONFIG, networks)
    assert [trainee.phase(p) for p in (0.0, 0.74, 0.8, 0.95)] == ["head", "head", "scanners", "scale"]
    for steps in range(CONFIG.least_steps, 100):
        seen = [trainee.phase(step / steps) for step in range(steps)]
        assert seen.count("scanners") >= len(CHANGES)
        assert seen[-1] == "scale"
    torch.manual_seed(0)
    x = to_input(tiles[:20], 96)
    assert trainee.step(x, 0.0)["separation"] > 0.5
    before = trainee.networks["head"].get_buffer("weight").clone()
    assert trainee.step(x, 0.8)["thickness"] > 0.01
    assert not torch.equal(trainee.networks["head"].get_buffer("weight"), before)
    assert trainee.step(x, 0.95)["deviation"] == pytest.approx(1.0, rel=0.05)
    assert trainee.reconstruct(x) is None


def test_tiles_without_nuclei_are_refused_in_words() -> None:
    networks = build_networks(CONFIG)
    trainee = build_trainee(CONFIG, networks)
    glass = torch.full((8, 3, 96, 96), 0.9)
    assert trainee.step(glass, 0.0) == {"separation": 0.0}
    with pytest.raises(UnsuitableTilesError, match="none rich in nuclei"):
        trainee.step(glass, 0.95)


def test_training_twice_gives_the_same_head(tiles: Pixels) -> None:
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        heads.append(state_of(_trained(tiles[:24], steps=3))["head"])
    assert all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])


def test_normal_tiles_have_scores_of_mean_0_and_deviation_1(trained: Networks, tiles: Pixels) -> None:
    scores = build_detector(CONFIG, trained)(tiles[:48]).score
    assert abs(scores.mean()) < 0.5
    assert scores.std() == pytest.approx(1.0, rel=0.2)


def test_enlarged_nuclei_score_higher_on_tiles_that_were_not_trained_on(trained: Networks, tiles: Pixels) -> None:
    torch.manual_seed(9)
    detector = build_detector(CONFIG, trained)
    views = make_views(to_input(tiles[48:84], 96), mpp=0.972, zoom=(1.4, 2.2))
    scores = detector(to_pixels(views.x)).score
    kinds = np.array(views.kinds)
    normal, enlarged = scores[kinds == "normal"], scores[kinds == "enlarged"]
    assert roc_auc_score(np.repeat([0, 1], [len(normal), len(enlarged)]), np.concatenate([normal, enlarged])) > 0.75


def test_it_scores_the_same_at_half_the_mpp(trained: Networks, tiles: Pixels) -> None:
    """The same tissue at 0.486 um/px, magnified by interpolation: scores are close and in the same order."""
    finer = CONFIG.model_copy(update={"mpp": 0.486, "input_px": 192})
    x = to_input(tiles[:12], 96)
    twice = torch.nn.functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False).clamp(-1, 1)
    coarse = build_detector(CONFIG, trained)(tiles[:12]).score
    fine = build_detector(finer, trained)(to_pixels(twice)).score
    assert np.corrcoef(coarse, fine)[0, 1] > 0.95


def test_a_map_comes_with_every_score(trained: Networks, tiles: Pixels) -> None:
    scored = build_detector(CONFIG, trained)(tiles[:3])
    assert scored.cells is not None
    maps = scored.maps(range(3))
    k, n = scored.cells.shape[1], maps.shape[1]
    assert k == min(6, n)
    np.testing.assert_allclose(scored.cells.mean((1, 2)), maps.mean((1, 2)), atol=1e-5)
    assert scored.pictures([0])[1] is None


def test_map_and_score_agree(trained: Networks, tiles: Pixels) -> None:
    detector = build_detector(CONFIG, trained)
    scored = detector(tiles[:5])
    maps = scored.maps(range(5))
    assert maps.shape == (5, 12, 12)
    assert np.abs(tile_scores(torch.from_numpy(maps)).numpy() - scored.score).max() < 1e-5
    x, x_hat = scored.pictures([1])
    assert np.array_equal(x[0], tiles[1])
    assert x_hat is None


def test_other_backbones_fit_the_same_grid() -> None:
    config = enlarged_nuclei.Config(kind="enlarged_nuclei", backbone="alexnet", layers=("relu2",))
    networks = build_networks(config, pretrained=False)
    for parameter in networks["backbone"].parameters():
        parameter.data.zero_()
    assert CellFeatures(config, networks["backbone"])(torch.zeros(1, 3, 96, 96)).shape == (1, 192, 12, 12)  # type: ignore[union-attr]


def test_a_bundle_keeps_it(trained: Networks, tiles: Pixels, tmp_path: Path) -> None:
    uri = str(tmp_path / "bundle")
    write_bundle(uri, trained, detector=CONFIG, name="toy", tiles=TileSpec(mpp=0.972, tile_px=96))
    assert read_bundle(uri).detector == CONFIG
    here, there = build_detector(CONFIG, trained)(tiles[:4]).score, load_detector(uri)(tiles[:4]).score
    assert np.abs(here - there).max() < 1e-6


def test_what_is_magnified_stays_in_range() -> None:
    x = torch.rand(4, 3, 48, 48) * 2 - 1
    view = magnified(x, torch.full((4, 2), 2.0), sharpness_um=torch.full((4,), 1.0), mpp=0.972, offset_um=7.8)
    assert view.shape == x.shape
    assert view.abs().max() <= 1
