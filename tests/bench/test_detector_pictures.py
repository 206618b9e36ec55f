"""What reconstructions are worth and what mapping costs, measured while tiles are scored."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from uadray.bench.detector_pictures import LPIPS_PX, DetectorScore, chosen, enlarged, lpips, picture_figures
from uadray.detectors.detector import Detector
from uadray.detectors.inversion.descent import Descent, DescentMap
from uadray.detectors.latents import Latent
from uadray.networks.lpips import lpips_distance

ANOMALOUS = np.array([False, True, False, True, False])


def _tiles() -> np.ndarray:
    """Of different brightness."""
    noise = np.random.default_rng(0).integers(0, 40, (5, 96, 96, 3))
    return (noise + np.array([5, 60, 110, 160, 215])[:, None, None, None]).astype(np.uint8)


class _Colour:
    """The squared distance of a colour from the mean one of a tile."""

    def targets(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x.mean((2, 3)),)

    def __call__(self, variables: tuple[Tensor, ...], targets: tuple[Tensor, ...], step: int) -> Tensor:
        return (variables[0] - targets[0]).square().sum(1)


class _Nowhere:
    """Latents that nothing is drawn from: the search is told where to start."""

    def drawn(self, n: int, *, seed: int) -> Tensor:
        return torch.zeros(n, 3)

    def pictures(self, latents: Tensor) -> Tensor:
        return latents[:, :, None, None]


def _search() -> DescentMap:
    """The mean colour of a tile, from a white one that is close to it or far from it."""
    return DescentMap(
        _Nowhere(), _Colour(), Descent(steps=200, learning_rate=0.1, patience=10, improvement=0.5),
        start=lambda x, _: (torch.ones(len(x), 3),),
    )  # fmt: skip


def _detector(mapping: Callable[[Tensor], Latent], *, batch_tiles: int = 2) -> Detector:
    def reconstruct(z: Latent) -> Tensor:
        assert isinstance(z, Tensor)
        return 2 * z[:, :, None, None].expand(-1, -1, 32, 32)  # may leave [-1, 1]

    def score(x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        assert x_hat is not None
        residual = (x - x_hat).abs().mean(1)
        return residual.mean((1, 2)), residual

    return Detector(
        mapping, reconstruct, score, input_px=32, device=torch.device("cpu"), batch_tiles=batch_tiles
    )  # fmt: skip


def test_figures_are_taken_while_tiles_are_scored() -> None:
    tiles = _tiles()
    scores, figures_of = DetectorScore(_detector(_search()), 0.972).watched(tiles, ANOMALOUS)
    figures = figures_of()
    assert scores == pytest.approx(DetectorScore(_detector(_search()), 0.972)(tiles))
    x = torch.from_numpy(tiles[:, 32:64, 32:64]).permute(0, 3, 1, 2) / 127.5 - 1
    found = _search().search(x)
    steps, means = found.steps, found.variables[0]
    assert 0 < steps.min() < steps.max() < 200, "tiles stop at different steps"
    assert figures["mapping"]["steps"] == pytest.approx(float(steps.float().mean()))
    assert figures["mapping"]["ms_per_tile"] > 0
    x_hat = (2 * means).clamp(-1, 1)[:, :, None, None].expand_as(x)
    expected = (x - x_hat).abs().mean((1, 2, 3)).numpy()
    pictures = figures["pictures"]
    assert pictures["normal"]["l1"] == pytest.approx(expected[~ANOMALOUS].mean(), rel=1e-5)
    assert pictures["tumour"]["l1"] == pytest.approx(expected[ANOMALOUS].mean(), rel=1e-5)
    assert (pictures["normal"]["n"], pictures["tumour"]["n"]) == (3, 2)
    of_each = lpips(x, x_hat)
    assert pictures["lpips_ratio"] == pytest.approx(of_each[ANOMALOUS].mean() / of_each[~ANOMALOUS].mean(), rel=1e-5)


def test_what_makes_one_pass_has_no_steps() -> None:
    _, figures_of = DetectorScore(_detector(lambda x: x.mean((2, 3))), 0.972).watched(_tiles(), ANOMALOUS)
    assert figures_of()["mapping"]["steps"] is None


def test_lpips_of_small_pictures_is_that_of_enlarged_ones() -> None:
    x, y = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    large = [torch.nn.functional.interpolate(part, scale_factor=LPIPS_PX / 32, mode="bilinear") for part in (x, y)]
    assert lpips(x, y) == pytest.approx(lpips_distance("alexnet")(*large).numpy(), rel=1e-5)
    assert lpips(x, x) == pytest.approx(0)
    assert enlarged(large[0]) is large[0]


def test_a_label_that_is_missing_has_no_figures() -> None:
    x = torch.zeros(2, 3, 64, 64)
    figures = picture_figures(x, x, np.array([False, False]))
    assert figures["normal"] == {"lpips": 0, "l1": 0, "lpips_ci95": [0, 0], "n": 2}
    assert (figures["tumour"], figures["lpips_ratio"], figures["lpips_auroc"]) == (None, None, None)


def test_pictures_are_of_tiles_evenly_spaced() -> None:
    kept = chosen(np.repeat([False, True], [1000, 30]), most=100)
    assert np.flatnonzero(kept).tolist() == [*range(0, 1000, 10), *range(1000, 1030)]
