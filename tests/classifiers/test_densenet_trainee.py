"""The step of a classifier, by hand, by two workers, and until it tells two classes apart."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from labelled_tiles import CLASSES, SIDE, tiles_of
from lockstep import means_over
from torch import Tensor

from uadray.classifiers.densenet import Config, Trainee, labels_of, networks
from uadray.detectors.pixels import to_float
from uadray.detectors.trainee import Average, alone

pytestmark = pytest.mark.usefixtures("torch_alone")

SMALL = Config(kind="densenet121", input_px=SIDE, growth=4, blocks=(2, 2), stem=8, learning_rate=1e-2)


def _batch(n_each: int, seed: int) -> Tensor:
    tiles = [tiles_of(label, n_each, seed=seed + 10 * i) for i, label in enumerate(CLASSES)]
    return to_float(torch.from_numpy(np.concatenate(tiles)))


def _trainee(average: Average = alone) -> Trainee:
    torch.manual_seed(0)
    trainee = Trainee(SMALL, networks(SMALL, pretrained=False), average=average)
    trainee.network.train()
    return trainee


def _after_steps(trainee: Trainee, *, rank: int) -> dict[str, Tensor]:
    """The network after three steps on the tiles of a worker."""
    for number in range(3):
        trainee.step(_batch(2, 100 * rank + number), number / 3)
    return trainee.network.state_dict()


def test_losses_by_hand() -> None:
    trainee, x = _trainee(), _batch(3, 0)
    with torch.no_grad():
        logits = copy.deepcopy(trainee.network).train()(x).double().numpy()
    right = logits[np.arange(6), [0, 0, 0, 1, 1, 1]]
    losses = trainee.step(x, 0.0)
    assert losses["cross_entropy"].item() == pytest.approx(np.log(np.exp(logits).sum(1)).mean() - right.mean(), 1e-5)
    assert losses["accuracy"].item() == pytest.approx((right == logits.max(1)).mean())
    assert not any(value.requires_grad for value in losses.values())
    with pytest.raises(ValueError, match="5 tiles are not equally many of 2 classes"):
        labels_of(5, 2)


def test_the_rate_falls_along_half_a_cosine() -> None:
    trainee, x = _trainee(), _batch(2, 0)
    for progress, expected in ((0.0, 1.0), (0.5, 0.5), (0.75, (1 - math.sqrt(0.5)) / 2)):
        trainee.step(x, progress)
        assert trainee.optimizers["network"].param_groups[0]["lr"] == pytest.approx(expected * 1e-2)


def test_two_workers_have_the_same_network() -> None:
    """Weights and running moments, after steps on other tiles; a worker alone has others."""
    means = means_over(2)
    trainees = [_trainee(means(rank)) for rank in range(2)]
    with ThreadPoolExecutor(2) as workers:
        first, second = workers.map(lambda rank: _after_steps(trainees[rank], rank=rank), range(2))
    assert all(torch.equal(t, second[key]) for key, t in first.items())
    lone = _after_steps(_trainee(), rank=0)
    assert {k for k, t in first.items() if torch.equal(t, lone[k])} <= {k for k in first if k.endswith("_tracked")}


def test_two_classes_that_differ_are_told_apart() -> None:
    trainee, steps = _trainee(), 25
    for step in range(steps):
        trainee.step(_batch(8, 100 + step), step / steps)
    trainee.network.eval()
    with torch.no_grad():
        called = trainee.network(_batch(50, 1)).argmax(1)
    right = (called == labels_of(100, 2)).float().view(2, 50).mean(1)
    assert right.min() > 0.9
