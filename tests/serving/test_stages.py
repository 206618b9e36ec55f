"""The stages behind Serve give the scores of the detector, and load no more than they use."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from uadray.detectors.bundle import load_detector, read_bundle
from uadray.detectors.detector import Detector
from uadray.serving.stages import AllStages, MapStage, ReconstructStage, ScoreStage
from uadray.tiles.images import Pixels

KINDS = ("dpa", "fanogan", "enlarged_nuclei", "combined")


@pytest.mark.parametrize("kind", KINDS)
def test_the_stages_are_the_detectors(bundles: dict[str, str], pixels: Pixels, kind: str) -> None:
    expected = load_detector(bundles[kind])(pixels)
    encoder, generator, scorer = (
        cls(bundles[kind], read_bundle(bundles[kind])) for cls in (MapStage, ReconstructStage, ScoreStage)
    )
    pixels.setflags(write=False)  # as arrays from the object store are
    z = encoder(pixels)
    scores = scorer(pixels, generator(z), z, maps=True)
    assert np.ptp(expected.score) > 1e-3
    assert np.abs(scores.score - expected.score).max() < 1e-5
    assert np.abs(scores.residual - expected.maps(range(len(pixels)))).max() < 1e-5
    z = encoder(pixels[:1])
    assert scorer(pixels[:1], generator(z), z).residual is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_loads_its_own_networks_and_one_replica_loads_them_once(bundles: dict[str, str], kind: str) -> None:
    bundle = read_bundle(bundles[kind])
    x = torch.zeros(1, 3, bundle.detector.input_px, bundle.detector.input_px)
    for cls, own in ((MapStage, "mapping"), (ReconstructStage, "reconstruct"), (ScoreStage, "score")):
        detector = cls(bundles[kind], bundle).detector
        calls = {"mapping": (x,), "reconstruct": (x,), "score": (x, x)}
        for name, arguments in calls.items():
            if name != own:
                with pytest.raises(RuntimeError, match="was not loaded"):
                    getattr(detector, name)(*arguments)
    whole = AllStages(bundles[kind], bundle, batch_tiles=5)
    assert whole.map.detector is whole.reconstruct.detector is whole.score.detector
    assert whole.score.detector.batch_tiles == 5


def without_reconstruction() -> Detector:
    """A detector of brightness: its latent is a tuple of two tensors, and it has no picture to show."""

    def score(x: Tensor, x_hat: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
        assert x_hat is None
        return x.mean((1, 2, 3)), x.mean(1)

    stages: Any = (lambda x: (x.mean((2, 3)), x), lambda z: None, score)
    return Detector(*stages, input_px=40, device=torch.device("cpu"), batch_tiles=32, has_picture=False, has_cells=True)


def test_a_latent_of_two_tensors_and_no_reconstruction(bundles: dict[str, str], pixels: Pixels) -> None:
    bundle = read_bundle(bundles["dpa"])
    stages = AllStages("", bundle, detector=without_reconstruction())
    z = stages.map(pixels)
    assert isinstance(z, tuple)
    assert [array.shape for array in z] == [(70, 3), (70, 3, 40, 40)]
    assert stages.reconstruct(z) is None
    scores = stages(pixels, maps=True)
    assert scores.score == pytest.approx(pixels.mean((1, 2, 3)) / 127.5 - 1, abs=1e-5)
    assert scores.residual is not None
    assert scores.residual.shape == (70, 40, 40)
    plain = without_reconstruction()(pixels)
    assert np.abs(scores.score - plain.score).max() < 1e-5
    assert np.abs(scores.residual - plain.maps(range(70))).max() < 1e-5
