"""The stages behind Serve give the scores of the detector, and load no more than they use."""

import numpy as np
import pytest
import torch

from uadray.detectors.bundle import load_detector, read_bundle
from uadray.serving.stages import Encoder, Generator, Scorer, Whole
from uadray.tiles.images import Pixels

KINDS = ("dpa", "fanogan")


@pytest.mark.parametrize("kind", KINDS)
def test_the_stages_are_the_detectors(bundles: dict[str, str], pixels: Pixels, kind: str) -> None:
    expected = load_detector(bundles[kind])(pixels)
    encoder, generator, scorer = (
        cls(bundles[kind], read_bundle(bundles[kind])) for cls in (Encoder, Generator, Scorer)
    )
    pixels.setflags(write=False)  # as arrays from the object store are
    scores = scorer(pixels, generator(encoder(pixels)), maps=True)
    assert np.abs(scores.score - expected.score).max() < 1e-5
    assert np.abs(scores.residual - expected.residual).max() < 1e-5
    assert scorer(pixels[:1], generator(encoder(pixels[:1]))).residual is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_loads_its_own_networks_and_one_replica_loads_them_once(bundles: dict[str, str], kind: str) -> None:
    bundle = read_bundle(bundles[kind])
    x = torch.zeros(1, 3, bundle.detector.input_px, bundle.detector.input_px)
    for cls, own in ((Encoder, "mapping"), (Generator, "reconstruct"), (Scorer, "score")):
        detector = cls(bundles[kind], bundle).detector
        calls = {"mapping": (x,), "reconstruct": (x,), "score": (x, x)}
        for name, arguments in calls.items():
            if name != own:
                with pytest.raises(RuntimeError, match="was not loaded"):
                    getattr(detector, name)(*arguments)
    whole = Whole(bundles[kind], bundle, batch_tiles=5)
    assert whole.encoder.detector is whole.generator.detector is whole.scorer.detector
    assert whole.scorer.detector.batch_tiles == 5
