"""`bench stains`: what normalising the colours of slides is worth to a detector, by Macenko's method and Vahadane's.

Each detector is trained three times, on the normal training mosaics as they are and normalised by either method, with
the same steps and seed, and scores the mosaics with large and with small lesions, prepared likewise. Nothing is
calibrated and nothing chosen. Mosaics are of two scanners with different stains, in training and in scoring alike.

`tile AUROC`: tiles at least half inside an outline against all others, those that an outline covers less left out.
`slide AUROC`: slides with a lesion against those without. A gain is that over colours as they are, with the 95 %
percentile interval over resampled slides, paired.

What is made is kept in a folder, a file a row: a bench that was killed goes on.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uadray.bench.detector_data import CALLED, SPEC, data_folder
from uadray.bench.detector_figures import with_scores
from uadray.bench.detector_results import keep
from uadray.bench.detector_training import trained
from uadray.bench.stain_slides import METHODS, TRAINED, Coloured, coloured
from uadray.config import parse_config
from uadray.decisions.aggregation import new_aggregation, slide_score
from uadray.errors import InputError
from uadray.evaluation.detection import auroc
from uadray.evaluation.judged import is_anomalous
from uadray.provenance import commit, fingerprint
from uadray.training.config import TrainConfig

log = logging.getLogger(__name__)

FOLDER = "bench-stains"
"""In the current folder, where no other is given."""

DETECTORS: dict[str, dict[str, Any]] = {
    "dpa": {
        "detector": {"kind": "dpa", "score": "relative_l2", "latent_channels": 1}, "batch_size": 16, "epochs": 6,
        "steps_per_epoch": 100,
    },
    "enlarged_nuclei": {
        "detector": {"kind": "enlarged_nuclei", "heads": 1}, "batch_size": 32, "epochs": 4, "steps_per_epoch": 18,
    },
    "neighbours_lof": {
        "detector": {
            "kind": "neighbours", "input_px": 96, "measure": "lof", "neighbours": 30, "components": 32,
            "candidates": 3000, "features": {"kind": "backbone", "layers": ["block10", "block15"], "pooling": "tile"},
        }, "batch_size": 64, "epochs": 1, "steps_per_epoch": 50,
    },
}  # fmt: skip
"""By name: their trainings, small enough for nine of them in a quarter of an hour of CPU time. The autoencoder compares
features of EfficientNet-Lite0, which are told in a fifth of the time that those of VGG16 take."""

AMPLE_MINUTES = 1e4
"""No budget shortens a training here: all methods make the same steps."""

DRAWS = 300
"""Of slides, for an interval."""

Row = dict[str, Any]


def run(
    *, only: Sequence[str] = (), seeds: int = 1, out: str | None = None, device: str = "cpu",
    shortened: int = 1, most_slides: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, score and compare.

    Args:
        only: names of `DETECTORS`; all unless given.
        seeds: trainings of each, with the seeds 0, 1, ...
        out: folder of the results, kept from run to run; `bench-stains` in the current folder unless given.
        device: "cpu" or "cuda".
        shortened: steps of each training are divided by this.
        most_slides: of each folder and label; None takes all.

    Raises:
        InputError: the data is not there, or there is no such detector.
    """
    if unknown := set(only) - set(DETECTORS):
        raise InputError(
            f"bench stains has no detector {', '.join(sorted(unknown))}; there are: {', '.join(DETECTORS)}"
        )
    folder, mosaics = Path(out or FOLDER).absolute(), data_folder() / "mosaics"
    rows: list[Row] = []
    for method in METHODS:
        data: Coloured | None = None
        for seed in range(seeds):
            for name in only or DETECTORS:
                config = config_of(name, seed=seed, shortened=shortened)
                key = fingerprint([config.model_dump_json(), method, device, str(most_slides), _sizes(mosaics)])
                path = folder / "rows" / f"{name}-{method}-seed{seed}.json"
                row = _kept(path, key)
                if row is None:
                    data = data or coloured(mosaics, method, most=most_slides)
                    row = row_of(config, data, device=device) | {"method": method, "key": key, "commit": commit()}
                    keep(path, row)
                    log.info("%s, %s, seed %d: %s", name, method, seed, figures_of(row))
                rows.append(row)
    answer = {"out": str(folder), "trained_on": TRAINED, "judged_on": list(CALLED)} | table_of(rows)
    keep(folder / "stains.json", answer)
    return answer


def config_of(name: str, *, seed: int, shortened: int = 1) -> TrainConfig:
    """The training of a detector."""
    values = DETECTORS[name] | {"name": name, "tiles": SPEC, "seed": seed, "train_min_tissue": 0}
    values["steps_per_epoch"] = max(1, values["steps_per_epoch"] // shortened)
    return parse_config(TrainConfig, values, source=f"bench stains, {name}")


def _kept(path: Path, key: str) -> Row | None:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return row if isinstance(row, dict) and row.get("key") == key else None


def _sizes(mosaics: Path) -> str:
    files = sorted(path for name in (TRAINED, *CALLED) for path in (mosaics / name).iterdir())
    return fingerprint([f"{path.name}:{path.stat().st_size}" for path in files])


def row_of(config: TrainConfig, data: Coloured, *, device: str) -> Row:
    """What one training scores: by folder and slide its score, those of its tiles, and the truth about them."""
    began = time.process_time()
    done = trained(config, data.normals, minutes=AMPLE_MINUTES, device=device)
    aggregation = new_aggregation()
    slides: dict[str, dict[str, Row]] = {}
    for name, judged in data.slides.items():
        slides[name] = {}
        for each in judged:
            scores = done.score(each.cut.pixels)
            table, kept = with_scores(each.cut, scores), each.truth >= 0
            slides[name][each.cut.row.slide_id] = {
                "anomalous": is_anomalous(each.cut.row.label),
                "score": slide_score(table, aggregation, spec=SPEC),
                "truth": each.truth[kept].tolist(),
                "tiles": np.round(scores[kept], 6).tolist(),
            }
    return {
        "detector": config.name, "seed": config.seed, "steps": done.figures["steps"],
        "crops": done.figures["tiles_seen"], "tiles_of_train": done.figures["tiles_of_train"],
        "cpu_s": time.process_time() - began, "seconds_a_slide": data.seconds_a_slide, "slides": slides,
    }  # fmt: skip


def figures_of(row: Row) -> dict[str, float | None]:
    """AUROCs of tiles and of slides, by folder."""
    names = {name: sorted(slides) for name, slides in row["slides"].items()}
    return {
        f"{name}_{what}": value
        for name, ids in names.items()
        for what, value in zip(("tile_auroc", "slide_auroc"), aurocs(row["slides"][name], ids), strict=True)
    }


def aurocs(slides: Mapping[str, Row], ids: Sequence[str]) -> tuple[float | None, float | None]:
    """Of tiles and of slides; a slide that is named twice counts twice."""
    drawn = [slides[slide] for slide in ids]
    tiles, truth = (np.concatenate([each[name] for each in drawn]) for name in ("tiles", "truth"))
    scores, anomalous = (np.array([each[name] for each in drawn]) for name in ("score", "anomalous"))
    return auroc(tiles, truth == 1), auroc(scores, anomalous)


def table_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of each detector and method, means of its seeds, and what a method gains."""
    table = []
    for detector in dict.fromkeys(row["detector"] for row in rows):
        of_detector = [row for row in rows if row["detector"] == detector]
        plain = [row for row in of_detector if row["method"] == METHODS[0]]
        for method in METHODS:
            own = [row for row in of_detector if row["method"] == method]
            figures = [figures_of(row) for row in own]
            about = {name: own[0][name] for name in ("steps", "crops", "tiles_of_train", "seconds_a_slide")}
            mean = {name: _mean([each[name] for each in figures]) for name in figures[0]}
            gains = {} if method == METHODS[0] else {"gains": gains_of(own, plain)}
            table.append({"detector": detector, "method": method, "seeds": len(own)} | about | mean | gains)
    return {"rows": table}


def gains_of(rows: Sequence[Row], plain: Sequence[Row]) -> dict[str, list[float] | None]:
    """By figure: how far it lies above that of plain colours, mean of the seeds, and the ends of its 95 % interval."""
    gains: dict[str, list[float] | None] = {}
    for name in CALLED:
        ids = sorted(rows[0]["slides"][name])
        rng = np.random.default_rng(0)
        draws = [ids, *(rng.choice(ids, len(ids)).tolist() for _ in range(DRAWS))]
        values = [_gain(rows, plain, name, drawn) for drawn in draws]
        for number, what in enumerate(("tile_auroc", "slide_auroc")):
            of_figure = [value[number] for value in values]
            found = [value for value in of_figure[1:] if value is not None]
            mean = of_figure[0]
            ends = np.quantile(found, [0.025, 0.975]).tolist() if found else []
            gains[f"{name}_{what}"] = None if mean is None else [mean, *ends]
    return gains


def _gain(rows: Sequence[Row], plain: Sequence[Row], name: str, ids: Sequence[str]) -> list[float | None]:
    """Differences of both AUROCs, means over the seeds."""
    pairs = [
        (aurocs(own["slides"][name], ids), aurocs(other["slides"][name], ids))
        for own, other in zip(rows, plain, strict=True)
    ]
    columns = [[(own[i], other[i]) for own, other in pairs] for i in range(2)]
    return [_mean([None if a is None or b is None else a - b for a, b in column]) for column in columns]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) and known else None
