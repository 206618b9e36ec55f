"""What the reconstructions of a detector are worth, and what mapping a tile costs.

Distances are LPIPS (AlexNet, Zhang et al. 2018) and mean absolute differences of pixels, of tiles of valid, evenly
spaced; they are taken while those tiles are scored, so that a mapping of seconds a tile is not made twice.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from uadray.bench.detector_training import scored
from uadray.detectors.detector import Detector
from uadray.detectors.inversion.descent import DescentMap
from uadray.detectors.latents import Latent, LatentMap
from uadray.detectors.losses import l1
from uadray.evaluation.arrays import Bools, Floats
from uadray.evaluation.detection import auroc
from uadray.networks import weights
from uadray.networks.lpips import lpips_distance
from uadray.tiles.images import Pixels

MOST_PICTURES = 200
"""Tiles of each label whose reconstructions are compared."""

LPIPS_PX = 64
"""Smaller pictures are enlarged to this side: on AlexNet the last maps of 64 px have 3 x 3 positions, of 32 px one."""

AT_ONCE = 64
"""Pictures that LPIPS is shown together."""


@dataclass(frozen=True)
class DetectorScore:
    """A detector as the score of a row.

    Attributes:
        detector: which.
        mpp: pixel size of the tiles that it was trained on, um.
    """

    detector: Detector
    mpp: float

    def __call__(self, tiles: Pixels) -> Floats:
        """RGB tiles [n, 96, 96, 3] at 0.972 um a pixel -> [n], higher = more abnormal.

        Raises:
            WorkError: a score is no number.
        """
        return scored(self.detector, tiles, mpp=self.mpp)

    def watched(self, tiles: Pixels, anomalous: Bools) -> tuple[Floats, Callable[[], dict[str, Any]]]:
        """The scores, and what gives the figures of pictures and of mapping: these are no part of scoring.

        Args:
            tiles: RGB [n, 96, 96, 3] at 0.972 um a pixel.
            anomalous: [n].
        """
        watch = _Watch(self.detector, chosen(anomalous))
        scores = scored(watch.detector(), tiles, mpp=self.mpp)
        return scores, lambda: watch.figures(anomalous)


@dataclass
class _Watch:
    """The stages of a detector with a clock around `map`, and the pictures of some tiles kept on their way.

    Attributes:
        watched: the detector.
        kept: [n], tiles whose pictures are kept.
        seen: tiles that have passed.
        seconds: of `map`.
        cpu_s: of `map`, over all threads.
        steps: that a search for latents has made of each tile.
        pairs: x and x_hat, each [n kept, 3, h, w] in parts.
    """

    watched: Detector
    kept: Bools
    seen: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    steps: list[Tensor] = field(default_factory=list)
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def detector(self) -> Detector:
        """The same detector, watched."""
        it = self.watched
        return Detector(
            self._map, it.reconstruct, self._score, input_px=it.input_px, device=it.device, batch_tiles=it.batch_tiles,
            has_picture=it.has_picture, has_cells=it.has_cells, memory=it.memory, searches=it.searches,
        )  # fmt: skip

    def figures(self, anomalous: Bools) -> dict[str, Any]:
        """Milliseconds a tile of mapping, steps of a search, and figures of the pictures, if there are any."""
        mapping = {
            "ms_per_tile": 1000 * self.seconds / self.seen,
            "cpu_ms_per_tile": 1000 * self.cpu_s / self.seen,
            "steps": float(torch.cat(self.steps).float().mean()) if self.steps else None,
        }
        if not self.pairs:
            return {"mapping": mapping}
        x, x_hat = (torch.cat(part) for part in zip(*self.pairs, strict=True))
        return {"mapping": mapping, "pictures": picture_figures(x, x_hat, anomalous[self.kept])}

    def _map(self, x: Tensor) -> Latent:
        self._wait()
        began, cpu_began = time.perf_counter(), time.process_time()
        z, steps = mapped(self.watched.mapping, x)
        self._wait()
        self.seconds += time.perf_counter() - began
        self.cpu_s += time.process_time() - cpu_began
        if steps is not None:
            self.steps.append(steps.cpu())
        return z

    def _score(self, x: Tensor, x_hat: Tensor | None, z: Latent) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(self.kept[self.seen : self.seen + len(x)]).to(x.device)
        self.seen += len(x)
        if x_hat is not None:
            self.pairs.append((x[rows].float().cpu(), x_hat[rows].float().clamp(-1, 1).cpu()))
        return self.watched.score(x, x_hat, z)

    def _wait(self) -> None:
        if self.watched.device.type == "cuda":
            torch.cuda.synchronize(self.watched.device)


def mapped(mapping: LatentMap, x: Float[Tensor, "n 3 h w"]) -> tuple[Latent, Tensor | None]:
    """What a detector maps x to, and the steps [n] that a search has made of each; None of what does not search."""
    if not isinstance(mapping, DescentMap):
        return mapping(x), None
    found = mapping.search(x)
    return found.variables[0] if len(found.variables) == 1 else found.variables, found.steps


def chosen(anomalous: Bools, most: int = MOST_PICTURES) -> Bools:
    """[n] At most so many tiles of each label, evenly spaced.

    >>> chosen(np.array([False, False, False, False, True]), 2).tolist()
    [True, False, True, False, True]
    """
    kept = np.zeros(len(anomalous), np.bool_)
    for label in (False, True):
        rows = np.flatnonzero(anomalous == label)
        kept[rows[:: max(1, -(-len(rows) // most))]] = True
    return kept


@torch.inference_mode()
def picture_figures(x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"], anomalous: Bools) -> dict[str, Any]:
    """Distances between pictures in [-1, 1] and their reconstructions, of normal and of anomalous ones.

    Returns:
        `normal` and `tumour`, each with the means of `lpips` (and its 95 % interval, tiles taken for independent) and
        of `l1` (of a range of 2), and `n`; `lpips_ratio`, tumour over normal; `lpips_auroc`, of LPIPS as a score. What
        needs a label that is missing is None.
    """
    distances = {"lpips": lpips(x, x_hat), "l1": l1(x, x_hat).numpy().astype(np.float64)}
    labels = (("normal", ~anomalous), ("tumour", anomalous))
    of_label = {name: _means(distances, rows) if rows.any() else None for name, rows in labels}
    normal, tumour = of_label["normal"], of_label["tumour"]
    ratio = tumour["lpips"] / normal["lpips"] if normal and tumour and normal["lpips"] else None
    return {**of_label, "lpips_ratio": ratio, "lpips_auroc": auroc(distances["lpips"], anomalous)}


def _means(distances: dict[str, Floats], rows: Bools) -> dict[str, Any]:
    means: dict[str, Any] = {name: float(values[rows].mean()) for name, values in distances.items()}
    n = int(rows.sum())
    half = 1.96 * float(distances["lpips"][rows].std(ddof=1)) / n**0.5 if n > 1 else None
    interval = None if half is None else [means["lpips"] - half, means["lpips"] + half]
    return means | {"lpips_ci95": interval, "n": n}


def lpips(x: Float[Tensor, "n 3 h w"], x_hat: Float[Tensor, "n 3 h w"]) -> npt.NDArray[np.float64]:
    """LPIPS [n] on AlexNet between pictures in [-1, 1], enlarged to `LPIPS_PX` where they are smaller.

    Raises:
        WorkError: its pinned weights cannot be had.
    """
    for name in ("alexnet", "lpips_alexnet"):
        weights.ensure(name)
    distance = lpips_distance("alexnet")
    parts = [
        distance(enlarged(x[start : start + AT_ONCE]), enlarged(x_hat[start : start + AT_ONCE]))
        for start in range(0, len(x), AT_ONCE)
    ]
    return torch.cat(parts).double().numpy()


def enlarged(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h2 w2"]:
    """The pictures with `LPIPS_PX` a side; themselves where they have as many."""
    if x.shape[2] >= LPIPS_PX:
        return x
    return F.interpolate(x, size=(LPIPS_PX, LPIPS_PX), mode="bilinear", align_corners=False)
