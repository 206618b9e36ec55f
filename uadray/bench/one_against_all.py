"""`bench one-against-all`: CIFAR-10, one class normal and the nine others not, for the detectors of the literature.

The protocol of Golan and El-Yaniv 2018 and of Tuluptceva et al. 2020, on a part of the data: 1,000 pictures a class to
train on (theirs: 5,000) and 300 to judge with (theirs: 1,000), JPEGs. It asks whether what is called Deep GEO here is
Deep GEO, on the data that it was made for. Pictures are upright, and are not augmented.

A training ends with the steps of its paper or with its minutes, whichever comes first; its progress is the larger share
of the two. Minutes are those of an idle machine, see `uadray.bench.detector_training`. On a CPU networks are smaller.
Nothing is chosen here: sizes are those of the authors' configurations, or what two cores can do.

Results are kept, a file a detector and class: what is there of the same configuration, budget and data is not made
anew.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import uadray
from uadray.bench.detector_figures import machine
from uadray.bench.detector_results import keep
from uadray.bench.reference_scores import mean_saturation, minus_mean_green
from uadray.detectors import deep_geo, deep_if, dpa, mahalanobis, piad
from uadray.detectors.building import build_detector, build_networks, build_trainee
from uadray.detectors.catalog import SingleConfig, file_of
from uadray.detectors.features.frozen import BackboneConfig
from uadray.detectors.pixels import to_float
from uadray.errors import InputError, WorkError
from uadray.evaluation.arrays import Floats
from uadray.evaluation.detection import auroc
from uadray.networks import weights
from uadray.networks.outline import Networks
from uadray.provenance import commit, fingerprint
from uadray.tiles.images import Pixels
from uadray.tilesets import containers
from uadray.training.arithmetic import quick
from uadray.training.config import PREPARE_TILES
from uadray.training.loop import DivergedError, as_floats

log = logging.getLogger(__name__)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE_PX = 32
DATA = Path("cifar10", "subset.zip")

MINUTES = 3.0
"""Of training, a detector and class."""

FOLDER = "bench-one-against-all"

CHECKED_EVERY = 20
"""Steps after which losses are read, and a GPU is waited for."""

TRIVIAL: dict[str, Callable[[Pixels], Floats]] = {
    "mean_saturation": mean_saturation, "minus_mean_green": minus_mean_green
}  # fmt: skip

PUBLISHED: dict[str, dict[str, float | str | None]] = {
    "deep_geo": {
        "mean_of_ten_classes": 0.860,
        "source": "listings of results on one-class CIFAR-10; the paper's own table could not be read",
    },
}
"""AUROC as published. Of single classes, and of the table of Tuluptceva et al. 2020, no text could be read."""

DIFFERS = {
    "dpa": "VGG16 for VGG19; on a CPU half the width",
    "piad": "VGG16 for VGG19; the critic of images as wide as the encoder; on a CPU a quarter of the width",
    "deep_if": "EfficientNet-Lite0 at 128 px for Inception-ResNet-v2 at 299 px",
    "deep_geo": "one transformation a picture and step; on a CPU a quarter of the width",
}
"""From the papers, beside the data and the steps that the minutes held."""


@dataclass(frozen=True)
class Row:
    """A detector, and how it is trained.

    Attributes:
        config: of the detector.
        batch: pictures a step.
        steps: at the most.
    """

    config: SingleConfig
    batch: int
    steps: int


def rows(device: str) -> dict[str, Row]:
    """The detectors by name, of the sizes of their papers on a GPU."""
    large = device == "cuda"
    once, lite = (
        16,
        BackboneConfig(
            kind="backbone", layers=("block2", "block4", "block7", "block10", "block14", "block15"), side_px=128
        ),
    )
    return {
        "dpa": Row(
            dpa.Config(
                kind="dpa", input_px=SIDE_PX, backbone="vgg16", layers=("relu3_2",), width=32 if large else 16,
                halvings=5, latent_channels=32, learning_rate=2e-3, layout="published", schedule="constant",
            ), 128 if large else 32, 5666,
        ),
        "piad": Row(
            piad.Config(
                kind="piad", input_px=SIDE_PX, backbone="vgg16", layers=("relu4_2",), width=64 if large else 16,
                latent_dim=256, latent_width=1024 if large else 256,
            ), 32, 200_000,
        ),
        "deep_if": Row(deep_if.Config(kind="deep_if", input_px=SIDE_PX, features=lite), 64, once),
        "deep_geo": Row(
            deep_geo.Config(kind="deep_geo", input_px=SIDE_PX, widen=4 if large else 1, fit_fraction=0.05), 128, 8440
        ),
        "mahalanobis": Row(mahalanobis.Config(kind="mahalanobis", input_px=SIDE_PX, features=lite), 64, once),
    }  # fmt: skip


def run(
    *, only: Sequence[str] = (), classes: int = 3, minutes: float = MINUTES, device: str = "cpu", out: str | None = None
) -> dict[str, Any]:
    """Train and judge each detector with each of the first classes as the normal one; one that fails says so.

    Args:
        only: names of rows to make; all unless given. What the folder has of others stays in the answer.
        classes: so many of `CLASSES` are normal in their turn.
        minutes: of training, a detector and class.
        device: "cpu" or "cuda".
        out: folder of the results; `bench-one-against-all` in the current folder unless given.

    Raises:
        InputError: the data is not there, or there is no such row or number of classes.
    """
    known = rows(device)
    if unknown := set(only) - {*known, *TRIVIAL}:
        raise InputError(
            f"bench one-against-all has no row {', '.join(sorted(unknown))}; there are: {', '.join([*known, *TRIVIAL])}"
        )
    if not 1 <= classes <= len(CLASSES):
        raise InputError(f"classes {classes}: CIFAR-10 has 1 to {len(CLASSES)}")
    where, folder = data_file(), Path(out or FOLDER).absolute()
    results: dict[str, dict[str, Any]] = {name: {} for name in [*known, *TRIVIAL]}
    for normal in CLASSES[:classes]:
        for name in results:
            row = known.get(name)
            key = _key(name, row, normal, minutes=minutes, device=device, where=where)
            path = folder / "rows" / f"{name}-{normal}.json"
            result = _kept(path, key)
            if result is None and (not only or name in only):
                result = _result(name, row, where, normal, minutes=minutes, device=device) | {"key": key}
                keep(path, result)
                log.info("%s, %s normal: %s", name, normal, result.get("auroc", result.get("failed")))
            if result is not None:
                results[name][normal] = result
    return {
        "out": str(folder),
        "classes": CLASSES[:classes],
        "pictures_a_class": {"train": len(pictures(where, "train", CLASSES[0])), "test": len(test_set(where)[0]) // 10},
        "budget": {"minutes": minutes, "device": device},
        **machine(),
        "rows": [_row(name, of_row) for name, of_row in results.items() if of_row],
        "goals": {},
        "goals_met": None,
    }


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    """The result of an earlier run, unless it is of something else, failed, or was not written to its end."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("key") == key and "auroc" in result else None


def data_file() -> Path:
    """The pictures: in `$UADRAY_DATA`, or in `../shared/data` beside the checkout.

    Raises:
        InputError: they are not there.
    """
    given = os.environ.get("UADRAY_DATA")
    folder = Path(given) if given else Path(uadray.__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / DATA).exists():
        raise InputError(f"bench one-against-all needs {DATA} in {folder}; set UADRAY_DATA to the folder that has it")
    return folder / DATA


@cache
def pictures(where: Path, part: str, label: str) -> Pixels:
    """RGB [n, 32, 32, 3] of a class, of `train` or `test`, by name.

    Raises:
        InputError: there is none.
        WorkError: one cannot be read.
    """
    uri = str(where)
    refs = [ref for ref in containers.list_tiles(uri, label=label) if ref.member.startswith(f"{part}/")]
    if not refs:
        raise InputError(f"{uri}: no {part}/{label}")
    found = []
    for _, image, error in containers.read_tiles(uri, refs):
        if image is None:
            raise WorkError(f"{uri}: {error}")
        found.append(image)
    return np.stack(found)


@cache
def test_set(where: Path) -> tuple[Pixels, tuple[str, ...]]:
    """All pictures to judge with, and the class of each."""
    parts = [pictures(where, "test", label) for label in CLASSES]
    labels = tuple(label for label, part in zip(CLASSES, parts, strict=True) for _ in part)
    return np.concatenate(parts), labels


def _key(name: str, row: Row | None, normal: str, *, minutes: float, device: str, where: Path) -> str:
    trained = [row.config.model_dump_json(), str(row.batch), str(row.steps), repr(float(minutes))] if row else []
    return fingerprint([name, normal, device, str(where.stat().st_size), *trained])


def _result(name: str, row: Row | None, where: Path, normal: str, *, minutes: float, device: str) -> dict[str, Any]:
    """The figures of a detector and class, or why there are none."""
    about = {"commit": commit(), "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    judged, labels = test_set(where)
    try:
        training: dict[str, Any] = {}
        if row is None:
            scores = TRIVIAL[name](judged)
        else:
            networks, training = trained(row, pictures(where, "train", normal), minutes=minutes, device=device)
            scores = build_detector(row.config, networks, device=device)(judged).score
        if not np.isfinite(scores).all():
            raise WorkError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are no numbers")
    except Exception as error:  # a detector that cannot be trained must not cost the others their rows
        log.debug("%s, %s normal", name, normal, exc_info=True)
        return about | {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
    return about | {"auroc": auroc(scores, np.array([label != normal for label in labels])), "training": training}


def trained(
    row: Row, normals: Pixels, *, minutes: float, device: str, seed: int = 0
) -> tuple[Networks, dict[str, Any]]:
    """Networks trained on normal pictures RGB [n, side, side, 3], and what that took.

    Raises:
        UadrayError: it diverges, or its weights cannot be had.
    """
    for name in file_of(row.config).borrowed_weights(row.config):
        weights.ensure(name)
    torch.manual_seed(seed)
    place = torch.device(device)
    networks = build_networks(row.config)
    for network in networks.values():
        network.to(place).to(memory_format=torch.channels_last).train()
    trainee, stream = build_trainee(row.config, networks), upright(normals, row.batch, seed=seed, device=place)
    now_s, done, progress, line = _clock(device), 0, 0.0, dict[str, float]()
    with quick(place):
        trainee.prepare(torch.cat([next(stream) for _ in range(-(-PREPARE_TILES // row.batch))]))
        began_s = now_s()
        while progress < 1:
            losses = trainee.step(next(stream), progress)
            done += 1
            if done == 1:  # a GPU begins slowly; that is not counted
                began_s = now_s()
            if done % CHECKED_EVERY == 0 or done == row.steps:
                line = as_floats(losses)
                if not all(np.isfinite(value) for value in line.values()):
                    raise DivergedError(f"step {done}: {line}")
            progress = max(done / row.steps, (now_s() - began_s) / (60 * minutes))
        trainee.finish()
    figures = {"steps": done, "steps_of_the_paper": row.steps, "batch": row.batch, "minutes": (now_s() - began_s) / 60}
    return networks, figures | {"config": row.config.model_dump(mode="json"), "last": line}


def upright(normals: Pixels, batch: int, *, seed: int, device: torch.device) -> Iterator[Tensor]:
    """X [batch, 3, side, side] in [-1, 1] without end: as they are, shuffled anew for every pass."""
    held = torch.from_numpy(normals).to(device)
    shuffled = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(len(normals), generator=shuffled)])
        taken, order = order[:batch], order[batch:]
        yield to_float(held[taken.to(device)])


def _clock(device: str) -> Callable[[], float]:
    """Seconds of an idle machine."""
    threads = torch.get_num_threads()
    return time.perf_counter if device == "cuda" else lambda: time.process_time() / threads


def _row(name: str, results: dict[str, Any]) -> dict[str, Any]:
    """One detector's figures of all its classes."""
    good = {normal: result["auroc"] for normal, result in results.items() if "auroc" in result}
    row: dict[str, Any] = {"name": name, "auroc": good, "mean": float(np.mean(list(good.values()))) if good else None}
    if name not in TRIVIAL:
        row |= {"published": PUBLISHED.get(name), "differs": DIFFERS.get(name)}
        row["training"] = {normal: result["training"] for normal, result in results.items() if "training" in result}
    if failed := {normal: result["failed"] for normal, result in results.items() if "failed" in result}:
        row["failed"] = failed
    return row
