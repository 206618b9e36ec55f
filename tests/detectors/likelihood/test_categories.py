"""Pixels as classes: Lloyd's algorithm, also over two workers, stain amounts, and the cross entropy."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from lockstep import means_over
from networks_watch import smooth_pictures
from sklearn.cluster import KMeans
from torch import Tensor

from uadray.detectors.likelihood.categories import MOST_PIXELS, CategoricalObservation, stain_amounts
from uadray.detectors.likelihood.lloyd import lloyd, nearest_centre, start_of
from uadray.detectors.trainee import alone
from uadray.detectors.views.scanners import STAINS, from_density

pytestmark = pytest.mark.usefixtures("torch_alone")


def heaps(n: int = 600, seed: int = 0) -> Tensor:
    """Rows in four heaps that overlap."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.tensor([[0.1, 0.2], [0.6, 0.5], [1.4, 0.3], [0.4, 1.1]], dtype=torch.float64)
    which = torch.randint(0, 4, (n,), generator=generator)
    return middles[which] + 0.2 * torch.randn(n, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_centres_are_scikit_learns_from_the_same_start(classes: int) -> None:
    rows = heaps()
    start = start_of(rows, classes, average=alone)
    expected = KMeans(classes, init=start.numpy(), n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(rows.numpy())
    found = lloyd(rows, start, average=alone)
    np.testing.assert_allclose(found.numpy(), expected.cluster_centers_, rtol=1e-9)
    np.testing.assert_array_equal(nearest_centre(rows, found).numpy(), expected.labels_)
    assert not np.allclose(found.numpy(), start.numpy(), atol=1e-3)


def test_two_workers_find_what_one_finds_with_all_rows() -> None:
    """Unequal shares, of other tissue each."""
    rows = heaps()
    shares = [rows[rows[:, 0] < 0.5], rows[rows[:, 0] >= 0.5]]
    assert len(shares[0]) != len(shares[1])
    expected = lloyd(rows, start_of(rows, 5, average=alone), average=alone)
    means = means_over(2)

    def found(rank: int) -> Tensor:
        start = start_of(shares[rank], 5, average=means(rank))
        return lloyd(shares[rank], start, average=means(rank))

    with ThreadPoolExecutor(2) as workers:
        both = list(workers.map(found, range(2)))
    assert torch.equal(both[0], both[1])
    torch.testing.assert_close(both[0], expected, rtol=1e-12, atol=1e-12)


def test_a_start_is_spread_over_the_rows() -> None:
    rows = torch.tensor([[0.01, 0.01]]).repeat(50, 1)
    rows = torch.cat([rows, torch.tensor([[2.01, 0.01]]).repeat(10, 1), torch.tensor([[0.01, 1.01]]).repeat(10, 1)])
    start = start_of(rows, 3, average=alone)
    torch.testing.assert_close(start, rows[[0, 50, 60]].double(), rtol=0, atol=0.04)  # to a bin's middle


def test_a_class_without_rows_stays_where_it_was() -> None:
    rows = torch.tensor([[0.0, 0], [0.2, 0]], dtype=torch.float64)
    centres = lloyd(rows, torch.tensor([[0.0, 0], [5, 5]]), average=alone)
    torch.testing.assert_close(centres, torch.tensor([[0.1, 0], [5, 5]], dtype=torch.float64))


def test_amounts_of_stain_are_those_that_were_mixed() -> None:
    amounts = torch.tensor([[0.9, 0.1], [0.0, 0.0], [0.3, 0.7]])
    density = amounts @ torch.tensor(STAINS)[:2]
    x = from_density(density.T[None, :, None])
    torch.testing.assert_close(stain_amounts(x)[0, :, 0].T, amounts, rtol=1e-4, atol=1e-4)


def fitted(x: Tensor, classes: int = 4) -> CategoricalObservation:
    observation = CategoricalObservation(classes)
    observation.fit(x, average=alone)
    return observation


def test_the_cross_entropy_is_a_naive_one() -> None:
    x, logits = smooth_pictures(3, 8), torch.randn(3, 4, 8, 8)
    observation = fitted(x)
    amounts = stain_amounts(x)
    for n, i, j in ((0, 0, 0), (1, 7, 3), (2, 4, 6)):
        of_pixel = [float((amounts[n, :, i, j] - centre).norm()) for centre in observation.centres]
        probabilities = logits[n, :, i, j].exp() / logits[n, :, i, j].exp().sum()
        expected = probabilities[of_pixel.index(min(of_pixel))].log()
        torch.testing.assert_close(observation(x, logits)[n, i, j], expected)
        torch.testing.assert_close(observation.residual(x, logits)[n, i, j], -expected)
        colour = (probabilities[:, None] * observation.colours).sum(0)
        torch.testing.assert_close(observation.picture(logits)[n, :, i, j], colour)


def test_a_class_has_the_mean_colour_of_its_pixels() -> None:
    x = smooth_pictures(3, 8)
    observation = fitted(x)
    classes = observation.classes(x)
    assert set(classes.flatten().tolist()) == {0, 1, 2, 3}
    for number in range(4):
        pixels = x.movedim(1, -1)[classes == number]
        torch.testing.assert_close(observation.colours[number], pixels.mean(0), rtol=1e-4, atol=1e-5)
    certain = 50 * torch.nn.functional.one_hot(classes, 4).movedim(-1, 1).float()
    assert observation(x, certain).abs().max() < 1e-6
    torch.testing.assert_close(observation.picture(certain), observation.colours[classes].movedim(-1, 1))


def test_of_many_pixels_some_are_looked_at() -> None:
    x = smooth_pictures(1, 16).repeat(MOST_PIXELS // 256 * 2, 1, 1, 1)
    torch.testing.assert_close(fitted(x).centres, fitted(x[:2, :, :, ::2]).centres, rtol=1e-4, atol=1e-4)


def test_tiles_of_one_colour_have_classes_too() -> None:
    observation = fitted(torch.full((2, 3, 8, 8), 0.5))
    assert observation.centres.isfinite().all()
    assert observation.colours.isfinite().all()
