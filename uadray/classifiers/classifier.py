"""A trained classifier that can be asked: tiles in, the probabilities of its classes out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from uadray.classifiers.bundle import ClassifierBundle, load_networks_of, read_classifier
from uadray.detectors.pixels import Pixels, staged, to_float

BATCH = 64
"""Tiles that go through the network at once."""


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        bundle: what it says of itself.
        network: in evaluation mode, in full precision.
        device: that it is on.
    """

    bundle: ClassifierBundle
    network: nn.Module
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self.bundle.classifier.classes

    @torch.no_grad()
    def probabilities(self, tiles: Pixels) -> npt.NDArray[np.float64]:
        """[n, classes] Of RGB tiles [n, h, w, 3], whose centres are looked at; each row adds up to 1.

        Raises:
            ValueError: the tiles are smaller than the classifier's input.
        """
        rows = [np.empty((0, len(self.classes)))]
        for part in _parts(tiles):
            x = to_float(staged(part, self.bundle.classifier.input_px).to(self.device))
            rows.append(self.network(x).double().softmax(1).cpu().numpy())
        return np.concatenate(rows)


def load_classifier(
    uri: str, bundle: ClassifierBundle | None = None, *, device: str | torch.device = "cpu"
) -> Classifier:
    """Open the bundle of a classifier.

    Raises:
        InputError: no bundle there, one of another kind, or one with damaged weights.
    """
    bundle = bundle or read_classifier(uri)
    network = load_networks_of(uri, bundle)["network"].to(device).eval()
    return Classifier(bundle, network.to(memory_format=torch.channels_last), torch.device(device))


def _parts(tiles: Pixels) -> Iterator[Pixels]:
    for start in range(0, len(tiles), BATCH):
        yield tiles[start : start + BATCH]
