"""Several detectors of one actor: their scores are those they give alone, and shared features are computed once."""

import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
import small_detectors
import torch
from toy_search import CountedSearch, searching

from uadray.detectors import enlarged_nuclei
from uadray.detectors.building import build_detector
from uadray.detectors.detector import Detector, Scored
from uadray.networks.backbones import EfficientNetLite0
from uadray.screening.actor_detectors import ActorDetector, shared_memory, together

pytestmark = pytest.mark.usefixtures("torch_alone")


def _detectors() -> list[Detector]:
    """Two of one kind, and one of another input."""
    made = []
    for seed, side in ((0, 32), (1, 32), (2, 16)):
        config = enlarged_nuclei.Config(kind="enlarged_nuclei", input_px=side, mpp=1, backbone_mpp=0.25)
        networks = small_detectors.trained(config)
        torch.manual_seed(seed)
        networks["head"].get_buffer("weight").normal_(std=0.01)
        made.append(build_detector(config, networks, batch_tiles=16))
    return made


@pytest.mark.parametrize("n_threads", [1, 2])
def test_features_are_computed_once_and_scores_stay_the_same(n_threads: int) -> None:
    pixels = small_detectors.tiles(40)
    detectors = _detectors()
    with ThreadPoolExecutor(n_threads) as pool:
        actors = [ActorDetector(each, pixels[:2], pool=pool, n_threads=n_threads) for each in detectors]
        memory = shared_memory(actors)
        assert memory is not None
        assert shared_memory(actors[1:]) is None, "two inputs have nothing in common"
        blocks: list[int] = []
        whole = EfficientNetLite0.advance

        def counted(self: EfficientNetLite0, y: torch.Tensor, position: int) -> torch.Tensor:
            blocks.append(len(y))
            return whole(self, y, position)

        with patch.object(EfficientNetLite0, "advance", counted):
            answers = [answer(pixels) for answer in together(actors, pixels, memory)]
        assert sum(blocks) == 2 * 11 * 40, "eleven blocks: once for two of them, once for the third"
        for answer, actor in zip(answers, actors, strict=True):
            alone = actor(pixels)
            np.testing.assert_array_equal(answer.score, alone.score)
            np.testing.assert_array_equal(answer.cells, alone.cells)
            np.testing.assert_array_equal(answer.pictures([33, 2])[0], alone.pictures([33, 2])[0])
            np.testing.assert_allclose(answer.maps([33, 2]), alone.maps([33, 2]), atol=1e-5)


def test_one_that_fails_costs_the_others_nothing() -> None:
    pixels = small_detectors.tiles(20)
    good, bad, _ = _detectors()
    with ThreadPoolExecutor(1) as pool:
        actors = [ActorDetector(each, pixels[:2], pool=pool, n_threads=1) for each in (good, bad)]
        memory = shared_memory(actors)
        assert memory is not None

        def fails(images: np.ndarray) -> Scored:
            raise ValueError("no more")

        actors[1].detector = fails
        first, second = together(actors, pixels, memory)
        np.testing.assert_array_equal(first(pixels).score, good(pixels).score)
        with pytest.raises(ValueError, match="no more"):
            second(pixels)


def test_a_search_is_tried_with_its_first_step() -> None:
    """A whole one, before the first tile of a slide, could take longer than a job waits for anything to move."""
    search = CountedSearch(steps=1000, step_s=0.01)
    pixels = small_detectors.tiles(2, 16)
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        actor = ActorDetector(searching(search), pixels, pool=pool, n_threads=1)
        assert not actor.is_broken()
        assert search.passes == 2
        assert time.monotonic() - began < 5
        assert shared_memory([actor, actor]) is None
        search.steps = "none"  # type: ignore[assignment]  # as a device that is broken, it raises
        assert actor.is_broken()


def test_pictures_of_a_search_are_those_of_its_latents_whatever_thread_found_them() -> None:
    search = CountedSearch()
    detector, pixels = searching(search), small_detectors.tiles(70, 16)
    with ThreadPoolExecutor(2) as pool:
        actor = ActorDetector(detector, pixels[:2], pool=pool, n_threads=2)
        scored = actor(pixels)
        assert search.tiles == 2 + 70
        best = np.argsort(-scored.score)[:16].tolist()
        shown, maps = scored.pictures(best), scored.maps(best)
        assert search.tiles == 2 + 70
    for ours, theirs in zip(shown, detector.pictures(pixels[best]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(maps, detector.maps(pixels[best]), atol=1e-6)
