"""`bench scoring`: ratios of a tiny detector's variants, and which of them it has."""

import pytest
import small_detectors
import torch

from uadray.bench import scoring
from uadray.bench.detector_data import SPEC
from uadray.bench.detector_rows import Row
from uadray.detectors import enlarged_nuclei, fanogan
from uadray.detectors.building import build_networks
from uadray.errors import InputError
from uadray.networks.backbones import EfficientNetLite0
from uadray.tiles.images import Pixels
from uadray.training.config import TrainConfig

pytestmark = pytest.mark.usefixtures("torch_alone")


@pytest.fixture(scope="module")
def tiles() -> Pixels:
    """Eight to score, others to train on."""
    return small_detectors.tiles(40, 96)


def _row(detector: object) -> Row:
    config = {"name": "tiny", "detector": detector, "tiles": SPEC, "epochs": 1, "steps_per_epoch": 18}
    return Row("tiny", "detector", TrainConfig.model_validate(config))


def test_each_variant_has_a_ratio(tiles: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "ROUNDS", 1)
    nuclei = enlarged_nuclei.Config(kind="enlarged_nuclei", input_px=32, layers=("block2",))
    monkeypatch.setattr(scoring, "briefly_trained", lambda *_, **__: small_detectors.trained(nuclei))
    figures = scoring.figures_of(_row(nuclei), tiles, device="cpu", n=8, compiled=False)
    assert set(figures["ratios"]) == set(scoring.VARIANTS)
    assert all(value > 0 for value in figures["ratios"].values())
    assert figures["ratios"]["whole backbone"] < 1, "thirteen more blocks take longer"
    assert figures["tiles_per_s"] > 0


def test_what_a_detector_does_not_have_has_no_ratio(tiles: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "ROUNDS", 1)
    gan = fanogan.Config(kind="fanogan", input_px=16, width=4, latent_dim=4)
    figures = scoring.figures_of(_row(gan), tiles, device="cpu", n=8, compiled=False)
    assert set(figures["ratios"]) == {"bfloat16", "bfloat16 in map too", "contiguous"}


def test_a_whole_backbone_gives_the_same_maps() -> None:
    config = enlarged_nuclei.Config(kind="enlarged_nuclei", input_px=32, layers=("block0", "block2"))
    networks = build_networks(config)
    whole = scoring.with_whole_backbones(dict(networks))
    assert whole is not None
    assert isinstance(networks["backbone"], EfficientNetLite0)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for own, other in zip(networks["backbone"](x), whole["backbone"](x), strict=True):
            assert torch.equal(own, other)


def test_no_such_detector() -> None:
    with pytest.raises(InputError, match=r"no detector dqa; there are: .*dpa"):
        scoring.run(only=["dqa"])
