"""`bench ablations`: the perceptual autoencoder's ten ablations at one small budget, and its curve against crops.

The rows are those of table 4 of Tuluptceva et al. 2020 (https://arxiv.org/abs/2006.13265), as the authors' public
configurations for Camelyon16 set them (https://github.com/ninatu/anomaly_detection): the published autoencoder, grown
and not; with a pixel L1 term, an adversarial term, or both, each at weights 1 and 0.1; and with the sizes that an
unsupervised choice had found, trained on the perceptual loss and on L1 alone. All have as many steps here; the authors'
have 34,666, grown 88,666, of an unsupervised choice 77,000 and 46,000. VGG16 stands for VGG19.

The figures of the table could not be read; what is compared are the directions that summaries of the paper state. Rows
`budget_300` to `budget_34666` (`--only budgets`) are the published autoencoder at several budgets, each with a schedule
of its own. Trained and judged on the tiles of `bench detectors`, which has the slides; each row also has the AUROC of
squared distances, `relative_l2`, of the same networks where they learned from features.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uadray.bench.ablation_rows import DIRECTIONS, Row, chosen, rows
from uadray.bench.detector_data import SPEC, Bools, Sizes, data_folder, read_label
from uadray.bench.detector_results import keep
from uadray.bench.detector_training import Floats, scored
from uadray.bench.kept_results import kept_result
from uadray.detectors import dpa
from uadray.detectors.building import build_detector
from uadray.detectors.detector import Detector
from uadray.detectors.scores import picture_of
from uadray.evaluation.detection import auroc
from uadray.networks import weights
from uadray.networks.outline import Networks
from uadray.provenance import commit, fingerprint
from uadray.tiles.images import Pixels
from uadray.training.array_source import ArraySource
from uadray.training.config import TrainConfig
from uadray.training.lone_tiles import enough_tissue
from uadray.training.loop import Line, Sample
from uadray.training.plain import train_plain

log = logging.getLogger(__name__)

STEPS, BATCH, SMALL_BATCH = 1000, 128, 32
"""Of each row: 128,000 crops; with the small backbone 32,000."""

FOLDER, VERSION, EPOCHS = "bench-ablations", 1, 10

ZIPS = ("train.zip", "valid.zip")


@dataclass(frozen=True)
class Tiles:
    """What is trained and judged on, RGB [n, 96, 96, 3]; see `detector_data` for what is which.

    Attributes:
        normals: trained on, with tissue.
        choosing: held-out normals and some tumours of train.
        choosing_anomalous: [n choosing].
        valid: reported.
        valid_anomalous: [n valid].
    """

    normals: Pixels
    choosing: Pixels
    choosing_anomalous: Bools
    valid: Pixels
    valid_anomalous: Bools


def run(
    *, only: Sequence[str] = (), seeds: int = 1, steps: int = STEPS, out: str | None = None, device: str = "cpu",
    valid_tiles: int | None = None, small: bool = False, sizes: Sizes | None = None, batch_tiles: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, score and compare, row by row.

    Args:
        only: names of rows, `ablations` (all ten; unless given) or `budgets`. Other rows that the folder has stay.
        seeds: trainings of each row, with the seeds 0, 1, ...
        steps: of each ablation; budgets have their own.
        out: folder of the results, kept from run to run: what is there of the same configuration, steps and tiles is
            not made again, wherever it was made. `bench-ablations` in the current folder unless given.
        device: "cpu" or "cuda".
        valid_tiles: so many tiles of valid are scored at the most, evenly spaced: on a CPU they take their time.
        small: features of EfficientNet-Lite0 and steps of 32 crops, for two cores; else of VGG16, and 128.
        sizes: how many tiles of train are used for what.
        batch_tiles: crops of a step; see `small`.

    Raises:
        InputError: the tiles are not there, or there is no such row.
    """
    every, where, folder = rows(steps, is_small=small), data_folder(mosaics=False), Path(out or FOLDER).absolute()
    batch_tiles = batch_tiles or (SMALL_BATCH if small else BATCH)
    sizes, tiles = sizes or Sizes(), None
    wanted = chosen(only, every)
    data = fingerprint(
        [f"{name}:{(where / 'pcam' / name).stat().st_size}" for name in ZIPS] + [repr((sizes, valid_tiles))]
    )
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for seed in range(seeds):
        for row in every:
            key, path = _key(row, seed, batch_tiles, data), folder / f"{row.name}-seed{seed}.json"
            result = kept_result(path, key)
            if result is None and row in wanted:
                tiles = tiles or read_tiles(where, sizes, valid_tiles)
                result = _result(row, tiles, seed=seed, batch_tiles=batch_tiles, device=device) | {"key": key}
                keep(path, result)
            if result is not None:
                results.setdefault(row.name, {})[seed] = result
    return answer(results, every) | {"out": str(folder), "batch_tiles": batch_tiles, "small": small}


def read_tiles(folder: Path, sizes: Sizes, valid_tiles: int | None = None) -> Tiles:
    """Decode what is trained and judged on; some 15,000 tiles, half a gigabyte.

    Raises:
        InputError: see `detector_data.read_label`.
        WorkError: a tile cannot be read.
    """
    train, valid = (str(folder / "pcam" / name) for name in ZIPS)
    normals, tumours = read_label(train, "normal"), read_label(train, "tumor")[-sizes.known_tumours :]
    with_tissue = SPEC.model_copy(update={"min_tissue": 0.5})
    held = normals[-sizes.held_normals :]
    trained_on = np.stack([tile for tile in normals[: -sizes.held_normals] if enough_tissue(tile, with_tissue)])
    of_valid = [read_label(valid, label) for label in ("normal", "tumor")]
    anomalous = np.repeat([False, True], [len(part) for part in of_valid])
    shown = np.linspace(0, len(anomalous) - 1, min(valid_tiles or len(anomalous), len(anomalous))).round().astype(int)
    return Tiles(
        trained_on, np.concatenate([held, tumours]), np.repeat([False, True], [len(held), len(tumours)]),
        np.concatenate(of_valid)[shown], anomalous[shown],
    )  # fmt: skip


def training_of(row: Row, *, seed: int, batch_tiles: int, device: str) -> TrainConfig:
    """The run of a row: tiles held on the device, steps in bfloat16 where that is fast."""
    epochs = EPOCHS if row.steps >= 10 * EPOCHS else 1
    return TrainConfig(
        name=row.name, detector=row.detector, tiles=SPEC, epochs=epochs, steps_per_epoch=row.steps // epochs,
        batch_size=batch_tiles, use_gpu=device == "cuda", hold_tiles=True, bf16=True, seed=seed,
        threads=torch.get_num_threads(),
    )  # fmt: skip


def _result(row: Row, tiles: Tiles, *, seed: int, batch_tiles: int, device: str) -> dict[str, Any]:
    """The figures of a row and seed, or why there are none."""
    config = training_of(row, seed=seed, batch_tiles=batch_tiles, device=device)
    about = {"row": row.name, "seed": seed, "device": device, "commit": commit()}
    try:
        figures = _figures(row, config, tiles, device)
    except Exception as error:  # a row that diverges must not cost the others theirs
        log.warning("row %s, seed %d: no figures: %s", row.name, seed, error)
        return about | {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
    log.info("row %s, seed %d: AUROC %.3f in %.0f s", row.name, seed, figures["auroc"], figures["seconds"])
    return about | {"figures": figures}


def _figures(row: Row, config: TrainConfig, tiles: Tiles, device: str) -> dict[str, Any]:
    weights.ensure(row.detector.backbone)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="uadray-bench-") as folder:
        source = ArraySource(tiles.normals, config.seed)
        networks, last = train_plain(config, source, out=Path(folder).as_uri(), listener=_unheard)
    seconds = time.perf_counter() - began
    figures: dict[str, Any] = {
        "steps": config.epochs * config.steps_per_epoch,
        "crops": config.tiles_taken(config.epochs),
    }
    figures |= judged(row.detector, networks, tiles, device)
    return figures | {"seconds": seconds, "loss": last["loss"], "tiles_per_second": last["tiles_per_second"]}


def _unheard(lines: list[Line], samples: list[Sample]) -> None:
    """Nobody looks at single steps."""


def judged(detector: dpa.Config, networks: Networks, tiles: Tiles, device: str) -> dict[str, float | None]:
    """AUROC on valid, and on the tiles that configurations may be chosen with; of squared distances too."""
    built = build_detector(detector, networks, device=device)
    figures: dict[str, float | None] = {}
    for name, pixels, anomalous in (
        ("auroc", tiles.valid, tiles.valid_anomalous),
        ("choosing_auroc", tiles.choosing, tiles.choosing_anomalous),
    ):
        if detector.score == "relative_l1":
            linear, squared = distances(built, networks["features"], pixels)
            figures |= {name: auroc(linear, anomalous), f"{name}_relative_l2": auroc(squared, anomalous)}
        else:
            figures[name] = auroc(scored(built, pixels, mpp=SPEC.mpp), anomalous)
    return figures


@torch.inference_mode()
def distances(detector: Detector, features: nn.Module, pixels: Pixels) -> tuple[Floats, Floats]:
    """Relative perceptual L1 and L2 of tiles [n, 96, 96, 3], from the same features: [n] each."""
    both: list[list[Tensor]] = []
    for x in detector.inputs(pixels):
        f, f_hat = features(x), features(picture_of(detector.reconstruct(detector.mapping(x))))
        both.append([distance(f, f_hat) for distance in dpa.DISTANCES.values()])
    linear, squared = (torch.cat(parts).cpu().double().numpy() for parts in zip(*both, strict=True))
    return linear, squared


def _key(row: Row, seed: int, batch_tiles: int, data: str) -> str:
    """What a result depends on, but for the code and the machine, which it names."""
    config = row.detector.model_dump_json(exclude_none=True)
    return fingerprint([str(VERSION), config, str(row.steps), str(seed), str(batch_tiles), data])


def answer(results: dict[str, dict[int, dict[str, Any]]], every: Sequence[Row]) -> dict[str, Any]:
    """The table, and which differences point the paper's way."""
    table = [_joined(row, results[row.name]) for row in every if row.name in results]
    means = {row["name"]: row["auroc"] for row in table if row.get("auroc") is not None}
    compared = [
        {"better": better, "worse": worse, "paper": says, "difference": round(difference, 4), "agrees": difference > 0}
        for better, worse, says in DIRECTIONS
        if better in means and worse in means
        for difference in [means[better] - means[worse]]
    ]
    return {
        "rows": table,
        "paper": "the figures of its table 4 could not be read; directions are those that summaries of the paper state",
        "directions": compared,
        "agree": sum(each["agrees"] for each in compared),
        "of": len(compared),
        "goals": {"agree": len(compared)},
        "goals_met": all(each["agrees"] for each in compared) if compared else None,
    }


def _joined(row: Row, by_seed: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """A row of the table: means over seeds, and the AUROC of each."""
    good = [by_seed[seed]["figures"] for seed in sorted(by_seed) if "figures" in by_seed[seed]]
    joined: dict[str, Any] = {"name": row.name, "steps": row.steps, "seeds": len(good)}
    if failed := {str(seed): result["failed"] for seed, result in by_seed.items() if "failed" in result}:
        joined["failed"] = failed
    if good:
        joined |= {name: statistics.fmean(figures[name] for figures in good) for name in good[0]}
        joined["aurocs"] = [figures["auroc"] for figures in good]
    return joined
