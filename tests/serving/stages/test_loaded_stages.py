"""What the stages compute are the detector's numbers, for every kind of bundle, however requests are joined."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from uadray.detectors.bundle import load_detector, read_bundle
from uadray.detectors.description import described_bundle
from uadray.detectors.detector import Detector
from uadray.errors import ChangedError, InputError
from uadray.serving.scores import Scores, Wanted
from uadray.serving.stages.loaded_stages import (
    best_rows,
    check_tiles,
    load_stages,
    makes_pictures,
    mapped,
    reconstructed,
    scored,
    scored_at_once,
)
from uadray.tiles.images import Pixels

KINDS = ("dpa", "fanogan", "enlarged_nuclei", "combined")
ALL = Wanted(maps=True, pictures=True)


def model_id(uri: str) -> str:
    return f"{read_bundle(uri).id}@{uri}"


def in_chain(uri: str, asked: list[tuple[Pixels, Wanted]]) -> list[Scores]:
    encoder, generator, scorer = (
        load_stages(model_id(uri), [stage], device="cpu") for stage in ("map", "reconstruct", "score")
    )
    z = mapped(encoder, [(pixels,) for pixels, _ in asked])
    x_hat = reconstructed(generator, [(latents,) for latents in z])
    rows = zip(asked, x_hat, z, strict=True)
    return scored(scorer, [(pixels, made, latents, wanted) for (pixels, wanted), made, latents in rows])


def at_once(uri: str, asked: list[tuple[Pixels, Wanted]]) -> list[Scores]:
    return scored_at_once(load_stages(model_id(uri), ["map", "reconstruct", "score"], device="cpu"), asked)


@pytest.mark.parametrize("way", [in_chain, at_once])
@pytest.mark.parametrize("kind", KINDS)
def test_the_stages_are_the_detectors(bundles: dict[str, str], pixels: Pixels, kind: str, way: Any) -> None:
    detector = load_detector(bundles[kind])
    expected = detector(pixels)
    (whole,) = way(bundles[kind], [(pixels, ALL)])
    assert np.ptp(expected.score) > 1e-3
    assert np.abs(whole.score - expected.score).max() < 1e-5
    assert np.abs(whole.residual - expected.maps(range(70))).max() < 1e-5
    if expected.cells is None:
        assert whole.cells is None
    else:
        assert np.abs(whole.cells - expected.cells).max() < 1e-5
    seen, x_hat = detector.pictures(pixels)
    np.testing.assert_array_equal(whole.pictures.rows, np.arange(70))
    np.testing.assert_array_equal(whole.pictures.seen, seen)
    assert (whole.pictures.reconstruction is None) == (x_hat is None)
    if x_hat is not None:
        assert np.abs(whole.pictures.reconstruction.astype(int) - x_hat).max() <= 1  # rounded to bytes


@pytest.mark.parametrize("way", [in_chain, at_once])
@pytest.mark.parametrize("kind", KINDS)
def test_joined_requests_come_apart_again(bundles: dict[str, str], pixels: Pixels, kind: str, way: Any) -> None:
    wider = np.pad(pixels[30:33], ((0, 0), (1, 1), (1, 1), (0, 0)))  # one centre, other tiles
    asked = [(pixels[:1], Wanted()), (wider, Wanted(maps=True)), (pixels[1:68], Wanted(evidence=4))]
    joined = way(bundles[kind], asked)
    detector = load_detector(bundles[kind])
    for answer, (tiles, wanted) in zip(joined, asked, strict=True):
        expected = detector(tiles)
        assert np.abs(answer.score - expected.score).max() < 1e-5
        assert (answer.residual is not None) == wanted.maps
        assert (answer.pictures is not None) == bool(wanted.evidence)
    assert np.abs(joined[1].residual - detector(wider).maps(range(3))).max() < 1e-5
    best = np.argsort(-detector(pixels[1:68]).score)[:4]
    np.testing.assert_array_equal(joined[2].pictures.rows, best)
    seen, x_hat = detector.pictures(pixels[1:68][best])
    np.testing.assert_array_equal(joined[2].pictures.seen, seen)
    if x_hat is not None:
        assert np.abs(joined[2].pictures.reconstruction.astype(int) - x_hat).max() <= 1


def test_evidence_is_chosen_as_a_screening_does() -> None:
    score = np.array([1.0, math.nan, 5.0, math.inf, 3.0, 4.0])
    assert best_rows(score, Wanted(evidence=4)).tolist() == [2, 5, 4]
    assert best_rows(score, Wanted(evidence=4, floor=4.0)).tolist() == [2]
    assert best_rows(score, Wanted(evidence=9, floor=9.0)).tolist() == []


@pytest.mark.parametrize("way", [in_chain, at_once])
@pytest.mark.parametrize("kind", ["dpa", "enlarged_nuclei"])
def test_where_no_tile_is_evidence(bundles: dict[str, str], pixels: Pixels, kind: str, way: Any) -> None:
    (answer,) = way(bundles[kind], [(pixels[:2], Wanted(evidence=3, floor=math.inf))])
    assert len(answer.pictures.rows) == len(answer.pictures.seen) == 0
    assert answer.pictures.reconstruction is None or len(answer.pictures.reconstruction) == 0


def test_a_stage_loads_its_own_networks(bundles: dict[str, str]) -> None:
    x = torch.zeros(1, 3, 32, 32)
    calls = {"map": ("mapping", (x,)), "reconstruct": ("reconstruct", (x,)), "score": ("score", (x, x))}
    for stage in calls:
        detector = load_stages(model_id(bundles["dpa"]), [stage], device="cpu", batch_tiles=5)  # type: ignore[list-item]
        assert detector.batch_tiles == 5
        for other, (name, arguments) in calls.items():
            if other != stage:
                with pytest.raises(RuntimeError, match="was not loaded"):
                    getattr(detector, name)(*arguments)


@pytest.mark.parametrize(("kind", "expected"), list(zip(KINDS, (True, True, False, True), strict=True)))
def test_whether_it_makes_pictures_is_known_without_its_networks(
    bundles: dict[str, str], kind: str, expected: bool
) -> None:
    assert makes_pictures(described_bundle(bundles[kind])) is expected
    assert load_detector(bundles[kind]).has_picture is expected


def test_another_bundle_at_the_uri_is_a_fault(bundles: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ChangedError, match="by now, not 0123"):
        load_stages(f"0123@{bundles['dpa']}", ["map"], device="cpu")
    with pytest.raises(InputError):
        load_stages(f"0123@{tmp_path}", ["map"], device="cpu")


def without_reconstruction() -> Detector:
    """A detector of brightness: its latent is a tuple of two tensors, and it has no picture to show."""

    def score(x: Tensor, x_hat: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
        assert x_hat is None
        return x.mean((1, 2, 3)), x.mean(1)

    stages: Any = (lambda x: (x.mean((2, 3)), x), lambda z: None, score)
    return Detector(*stages, input_px=40, device=torch.device("cpu"), batch_tiles=32, has_picture=False, has_cells=True)


def test_a_latent_of_two_tensors_and_no_reconstruction(pixels: Pixels) -> None:
    detector = without_reconstruction()
    z = mapped(detector, [(pixels[:3],), (pixels[3:],)])
    assert isinstance(z[1], tuple)
    assert [array.shape for array in z[1]] == [(67, 3), (67, 3, 40, 40)]
    x_hat = reconstructed(detector, [(z[0],), (z[1],)])
    assert x_hat == [None, None]
    first, second = scored(detector, [(pixels[:3], None, z[0], Wanted()), (pixels[3:], None, z[1], Wanted(maps=True))])
    expected = detector(pixels)
    assert np.abs(np.concatenate([first.score, second.score]) - expected.score).max() < 1e-5
    assert np.abs(np.concatenate([first.cells, second.cells]) - expected.cells).max() < 1e-5  # type: ignore[list-item]
    assert np.abs(second.residual - expected.maps(range(3, 70))).max() < 1e-5  # type: ignore[operator]


def test_what_is_no_tile_is_refused_before_it_is_joined_with_others(pixels: Pixels) -> None:
    detector = without_reconstruction()
    check_tiles(pixels, detector)
    for wrong in (pixels[:0], pixels[0], pixels.astype(np.float32), pixels[..., :2], pixels[:, :39]):
        with pytest.raises(ValueError, match=r"expected RGB tiles|the detector needs 40 px"):
            check_tiles(wrong, detector)
