"""`bench findings`: what comparisons of likelihood models have found, tried on lymph-node tiles.

Each model is trained once a seed, on normal tiles and within a budget as in `bench detectors`, and its networks are
read in several ways: an autoencoder that knows a density has a reconstruction error, a KL term, a bound. A finding says
that one reading detects better than another. The answer is the difference of their AUROCs on the same tiles of valid,
with its 95 % interval (DeLong's, paired): "yes" where the interval is above 0, "no" where it is below, else "not told
apart"; and the same on tiles of which at least half is tissue, for glass and fat are easily told from tumour.

Beside each reading stands how far it follows what is no anomaly: its rank correlation, on normal tiles of valid alone,
with the mean optical density of a tile (how dark it is) and with the deviation of its density (how much contrast it
has). A score that has a correlation near 1 or -1 measures intensity.
"""

import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from uadray.bench.detector_data import Bools, DetectorData, Sizes, data_folder, read_data
from uadray.bench.detector_results import keep
from uadray.bench.detector_rows import config_folder
from uadray.bench.detector_training import Floats, scored, trained
from uadray.bench.finding_rows import FINDINGS, MODELS, Finding, Model, Source
from uadray.bench.kept_results import kept_result
from uadray.bench.reference_scores import mean_saturation
from uadray.config import load_config
from uadray.detectors.building import build_detector
from uadray.errors import InputError
from uadray.evaluation.detection import auroc, auroc_difference
from uadray.provenance import commit, fingerprint
from uadray.tiles.images import Pixels
from uadray.training.config import TrainConfig, detector_of

log = logging.getLogger(__name__)

MINUTES, VALID_TILES = 2.0, 1000

FOLDER, VERSION = "bench-findings", 2

FIGURES = ("auroc", "auroc_with_tissue", "choosing_auroc", "with_density", "with_contrast")
"""Of a reading."""

Result = dict[str, Any]


def run(
    *, only: Sequence[str] = (), seeds: int = 1, minutes: float = MINUTES, out: str | None = None, device: str = "cpu",
    valid_tiles: int = VALID_TILES, sizes: Sizes | None = None, configs: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train every model, read it in every way, and answer.

    Args:
        only: names of models; all unless given. Others that the folder has stay in the table.
        seeds: trainings of each, with the seeds 0, 1, ...
        minutes: of each training, see `bench detectors`.
        out: folder of the results, kept from run to run; `bench-findings` in the current folder unless given.
        device: "cpu" or "cuda".
        valid_tiles: so many tiles of valid are scored at the most, evenly spaced.
        sizes: how many tiles of train are used for what.
        configs: folder of the configurations; that of the checkout unless given.

    Raises:
        InputError: the tiles are not there, or there is no such model.
    """
    if unknown := set(only) - {model.file for model in MODELS}:
        known = ", ".join(model.file for model in MODELS)
        raise InputError(f"bench findings has no model {', '.join(sorted(unknown))}; there are: {known}")
    sizes, folder, where = sizes or Sizes(), Path(out or FOLDER).absolute(), data_folder(mosaics=False)
    tiles = fingerprint([f"{(where / 'pcam' / name).stat().st_size}" for name in ("train.zip", "valid.zip")])
    data: DetectorData | None = None
    results: dict[str, dict[int, Result]] = {}
    for seed in range(seeds):
        for model in MODELS:
            config = load_config(TrainConfig, (configs or config_folder()) / f"{model.file}.yaml")
            about = [VERSION, config.model_dump_json(), dict(model.readings), seed, minutes, device, valid_tiles, sizes]
            key, path = fingerprint([tiles, *map(repr, about)]), folder / f"{model.file}-seed{seed}.json"
            result = kept_result(path, key)
            if result is None and (not only or model.file in only):
                data = data or read_data(where, sizes, mosaics=False)
                result = _result(model, config, data, seed=seed, minutes=minutes, device=device, most=valid_tiles)
                keep(path, result | {"key": key})
            if result is not None:
                results.setdefault(model.file, {})[seed] = result
    return answers(results) | {"minutes": minutes, "device": device, "out": str(folder)}


def _result(
    model: Model, config: TrainConfig, data: DetectorData, *, seed: int, minutes: float, device: str, most: int
) -> Result:
    """The scores of a model's readings, or why there are none."""
    about = {"model": model.file, "seed": seed, "commit": commit()}
    try:
        found = read(model, config.model_copy(update={"seed": seed}), data, minutes=minutes, device=device, most=most)
    except Exception as error:  # a model that diverges must not cost the others theirs
        log.warning("model %s, seed %d: no figures: %s", model.file, seed, error)
        return about | {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
    for name, reading in found["readings"].items():
        log.info("%s, seed %d: AUROC %.3f", name, seed, reading["auroc"])
    return about | {"figures": found}


def read(
    model: Model, config: TrainConfig, data: DetectorData, *, minutes: float, device: str, most: int
) -> dict[str, Any]:
    """Train a model, and read it: its scores on valid and what they say, by the names of its readings.

    Args:
        model: and its readings.
        config: of the training.
        data: what is trained and judged on.
        minutes: of the training.
        device: "cpu" or "cuda".
        most: tiles of valid at the most, and of others in proportion.
    """
    done = trained(config, data.normals, minutes=minutes, device=device)
    every = -(-len(data.valid) // most)
    valid, anomalous = data.valid[::every], data.anomalous[::every]
    choosing = [data.held_normals[::every], data.known_tumours[::every]]
    is_tumour = np.repeat([False, True], [len(part) for part in choosing])
    readings = {}
    for name, changes in zip(model.names(), model.readings.values(), strict=True):
        single = detector_of(done.config)
        single = type(single).model_validate(single.model_dump() | dict(changes))
        detector = build_detector(single, done.networks, device=device)
        scores = scored(detector, valid, mpp=done.config.tiles.mpp)
        chosen_on = scored(detector, np.concatenate(choosing), mpp=done.config.tiles.mpp)
        readings[name] = {
            "auroc": auroc(scores, anomalous),
            "auroc_with_tissue": auroc(scores[data.has_tissue[::every]], anomalous[data.has_tissue[::every]]),
            "choosing_auroc": auroc(chosen_on, is_tumour),
            **intensity(scores, valid, ~anomalous),
            "scores": [float(f"{score:.7g}") for score in scores],
        }
    of_tiles = {
        "anomalous": anomalous.tolist(),
        "has_tissue": data.has_tissue[::every].tolist(),
        "saturation": mean_saturation(valid).tolist(),
    }
    return {"training": done.figures, "readings": readings} | of_tiles


def intensity(scores: Floats, tiles: Pixels, rows: Bools) -> dict[str, float]:
    """Rank correlations of scores [n] with the mean optical density and its deviation, over some of the tiles.

    Args:
        scores: of the tiles.
        tiles: RGB [n, h, w, 3].
        rows: [n], which of them count.
    """
    density = -np.log((tiles[rows].astype(np.float32) + 1) / 256).mean(3)
    flat = density.reshape(len(density), -1)
    of_what = {"with_density": flat.mean(1), "with_contrast": flat.std(1)}
    return {name: float(spearmanr(scores[rows], values).statistic) for name, values in of_what.items()}


@dataclass(frozen=True)
class Reading:
    """What one reading of one training says of tiles of valid.

    Attributes:
        figures: AUROCs and rank correlations.
        scores: [n].
        saturation: [n], mean saturation of the tiles, which needs no model.
        anomalous: [n].
        has_tissue: [n], at least half of the tile.
    """

    figures: Mapping[str, float]
    scores: Floats
    saturation: Floats
    anomalous: Bools
    has_tissue: Bools


Readings = dict[str, dict[int, Reading]]
"""By name and seed."""


def readings_of(results: Mapping[str, Mapping[int, Result]]) -> Readings:
    """What there is, in the order of `MODELS`."""
    found: Readings = {}
    for model in MODELS:
        for seed, result in results.get(model.file, {}).items():
            figures = result.get("figures", {"readings": {}})
            for name, reading in figures["readings"].items():
                of_tiles = (figures[each] for each in ("saturation", "anomalous", "has_tissue"))
                arrays = map(np.array, (reading["scores"], *of_tiles))
                found.setdefault(name, {})[seed] = Reading({each: reading[each] for each in FIGURES}, *arrays)
    return found


def answers(results: Mapping[str, Mapping[int, Result]]) -> dict[str, Any]:
    """The table of readings, and the findings with their figures."""
    readings = readings_of(results)
    failed = {
        f"{file}, seed {seed}": result["failed"]
        for file, by_seed in results.items()
        for seed, result in by_seed.items()
        if "failed" in result
    }
    n_findings = len(FINDINGS) + len({model.learns_from for model in MODELS}) - 1
    every = [*FINDINGS, *synthetic_against_all(readings)]
    told = [answer(each, readings) for each in every if each.better in readings and each.worse in readings]
    return {
        "readings": [_row(name, list(by_seed.values())) for name, by_seed in readings.items()],
        "findings": told,
        "failed": failed,
        "goals": {"findings with an answer": n_findings},
        "goals_met": len(told) == n_findings and not failed,
    }


def _row(name: str, seeds: Sequence[Reading]) -> dict[str, Any]:
    """A row of the table: means over seeds, and of each how far its AUROC is above that of mean saturation."""
    means = {figure: round(statistics.fmean(reading.figures[figure] for reading in seeds), 4) for figure in FIGURES}
    above = [auroc_difference(reading.scores, reading.saturation, reading.anomalous) for reading in seeds]
    return {"name": name, "seeds": len(seeds)} | means | {"above_saturation": above}


def synthetic_against_all(readings: Readings) -> list[Finding]:
    """The best reading of each source, by the tiles that may be chosen with, against the best of normal tiles alone."""

    def chosen_by(name: str) -> float:
        return statistics.fmean(reading.figures["choosing_auroc"] for reading in readings[name].values())

    groups: dict[Source, list[str]] = {}
    for model in MODELS:
        groups.setdefault(model.learns_from, []).extend(name for name in model.names() if name in readings)
    best = {source: max(names, key=chosen_by) for source, names in groups.items() if names}
    alone = best.pop("normal tiles", None)
    says = "Training on synthetic anomalies ({}) is better than any likelihood"
    return [] if alone is None else [Finding(says.format(source), name, alone) for source, name in best.items()]


def answer(finding: Finding, readings: Readings) -> dict[str, Any]:
    """Whether a finding holds here: by seed the difference of both AUROCs and its interval, and what they say."""
    better, worse = readings[finding.better], readings[finding.worse]
    seeds = sorted(set(better) & set(worse))
    every = [_difference(better[seed], worse[seed], np.ones_like(better[seed].has_tissue)) for seed in seeds]
    tissue = [_difference(better[seed], worse[seed], better[seed].has_tissue) for seed in seeds]
    return {
        "finding": finding.says, "better": finding.better, "worse": finding.worse,
        "differences": every, "here": verdict([pair["ci95"] for pair in every]),
        "differences_with_tissue": tissue, "with_tissue": verdict([pair["ci95"] for pair in tissue]),
    }  # fmt: skip


def _difference(better: Reading, worse: Reading, rows: Bools) -> dict[str, Any]:
    return auroc_difference(better.scores[rows], worse.scores[rows], better.anomalous[rows])


def verdict(intervals: Sequence[Sequence[float] | None]) -> str:
    """What the intervals of a difference say together, one a seed.

    >>> [verdict(each) for each in ([(0.1, 0.2)], [(-0.2, -0.1), (-0.3, -0.1)], [(0.1, 0.2), (-0.1, 0.2)], [])]
    ['yes', 'no', 'not told apart', 'not told apart']
    """
    if intervals and all(interval and interval[0] > 0 for interval in intervals):
        return "yes"
    return "no" if intervals and all(interval and interval[1] < 0 for interval in intervals) else "not told apart"
