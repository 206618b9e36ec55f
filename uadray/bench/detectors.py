"""`bench detectors`: every detector in one table, trained on normal tiles alone within a budget, judged on real tiles.

Rows are the detectors of the catalog (one a file of `configs/train`, or with the defaults of their configuration),
mappings over generators that are given, bundles that were trained elsewhere, two scores that need no model, and a
logistic regression that was shown tumour, as an upper reference. A detector that was trained with several budgets has
a row for each. Which tiles are used for what is said in `detector_data`; nothing is chosen on what is reported, and the
bench itself chooses nothing but the reference's strength, by cross-validation on train. `choosing_auroc` is that of the
tiles which configurations may be chosen with: 1,000 held-out normals and 200 tumour tiles of train. Not all rows are
judged on all tiles, see `judged_on`.

Tiles have 0.972 um a pixel; a detector of another pixel size gets them resampled, for training and for scoring, from
tiles of the set and of slides alike. All is done in this process, without Ray. Intervals of the AUROC take tiles for
independent, for PatchCamelyon does not say of which slide a tile is.

`detectors.json`, `detectors.csv` and `detectors.html` are written anew after each row and seed; `maps/` has a mosaic as
each detector sees it (`detector_maps`).
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

from uadray.bench.detector_bundles import named_bundles
from uadray.bench.detector_comparison import compared
from uadray.bench.detector_data import CALLED, CutSlide, DetectorData, Sizes, data_folder, read_data
from uadray.bench.detector_figures import ALPHA, SCORING_MINUTES, figures_of, machine
from uadray.bench.detector_mappings import FOLDER as MAPPINGS
from uadray.bench.detector_mappings import mapping_rows
from uadray.bench.detector_maps import mosaic_picture, shown_pair
from uadray.bench.detector_pictures import DetectorScore
from uadray.bench.detector_results import (
    AIMS,
    GOALS,
    RECOMMENDED,
    by_auroc,
    csv_of,
    goals_met,
    joined,
    keep,
    kept,
    labelled,
    result_path,
)
from uadray.bench.detector_rows import Row, config_folder, maker, named_once, rows
from uadray.bench.detector_training import clock
from uadray.bench.reference_scores import Score
from uadray.decisions.aggregation import new_aggregation
from uadray.errors import InputError
from uadray.provenance import commit, fingerprint
from uadray.reports.detectors_page import detectors_page
from uadray.reports.pictures import encode_jpeg

log = logging.getLogger(__name__)

MINUTES = 5.0
"""Of training, a detector and seed."""

FOLDER = "bench-detectors"
"""In the current folder, where no other is given."""

GIVEN = ("bundle", "mapping")
"""Groups of rows that are there where a bundle is named."""

SHOWN_MS = 500
"""CPU milliseconds a tile above which no mosaic is shown: two slides take some 300 tiles."""

VERSION = 2
"""Of the figures: results of another version are made anew."""

Results = dict[tuple[str, str], dict[int, dict[str, Any]]]
"""By row and budget, the results by seed."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for of each row.

    Attributes:
        minutes: of training, a detector and seed.
        device: "cpu" or "cuda".
        sizes: how many tiles of train are used for what.
        mosaics: are called too.
        most_valid: tiles of valid that are scored at the most; None: all.
        scoring_minutes: that a row and seed scores at the most.
    """

    minutes: float
    device: str
    sizes: Sizes
    mosaics: bool = True
    most_valid: int | None = None
    scoring_minutes: float = SCORING_MINUTES

    def budget(self, row: Row) -> str:
        """Of a row, as it stands in the table; "" for what is not trained here, or not within a budget."""
        return f"{self.minutes:g} min, {self.device}" if row.has_budget else ""

    def has_all(self, result: Mapping[str, Any]) -> bool:
        """Whether a result that was made earlier has all that is asked for: more tiles are as good, and mosaics too."""
        figures = result["figures"]
        scored = figures["scored"]
        every = -(-scored["of"] // self.most_valid) if self.most_valid else 1
        has_mosaics = bool(figures["slides"]) or not self.mosaics
        return bool(scored["why"]) or (scored["every"] <= every and has_mosaics)


def run(
    *, only: Sequence[str] = (), seeds: int = 1, minutes: float = MINUTES, out: str | None = None, device: str = "cpu",
    bundle: Sequence[str] = (), generator: Sequence[str] = (), tiles_only: bool = False,
    valid_tiles: int | None = None, scoring_minutes: float = SCORING_MINUTES, sizes: Sizes | None = None,
    configs: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, score and compare; a detector that fails has a row that says so.

    Args:
        only: names of rows to make, in which `*` stands for anything; all unless given, or with generators those over
            them and the trivial scores. Other rows, budgets and seeds that the folder has stay in the table.
        seeds: trainings of each row, with the seeds 0, 1, ...
        minutes: of training, a detector and seed; the supervised reference takes what it takes.
        out: folder of the results, kept from run to run: what is there of the same data, configuration and budget is
            not made again. `bench-detectors` in the current folder unless given.
        device: "cpu" or "cuda".
        bundle: NAME=URI of bundles that were trained elsewhere, a row each.
        generator: NAME=URI of trained generators, a row each of every mapping over them, see `detector_mappings`.
        tiles_only: mosaics are neither read nor called.
        valid_tiles: of valid are scored at the most, evenly spaced, and of the other sets in proportion.
        scoring_minutes: that a row and seed scores at the most, see `detector_figures`.
        sizes: how many tiles of train are used for what.
        configs: folder of the configurations; that of the checkout unless given.

    Raises:
        InputError: the data is not there, or there is no such row or bundle.
    """
    wanted = Wanted(minutes, device, sizes or Sizes(), not tiles_only, valid_tiles, scoring_minutes)
    folder = Path(out or FOLDER).absolute()
    configs = configs or config_folder()
    every, left_out = rows(configs, named_bundles(bundle))
    mappings, unfit = mapping_rows(configs / MAPPINGS, named_bundles(generator, option="generator"))
    every, left_out = named_once([*mappings, *every]), left_out | unfit
    chosen = _chosen(only, every, over_generators=bool(mappings))
    if not only and device == "cpu":
        left_out |= {
            row.name: "its configuration is for a GPU; name it in --only" for row in chosen if _is_for_gpu(row)
        }
        chosen = [row for row in chosen if not _is_for_gpu(row)]
    where = data_folder(mosaics=wanted.mosaics)
    about = _about(where, wanted) | {"left_out": left_out}
    about["budget"] = {"minutes": minutes, "seeds": seeds, "device": device}
    results = _kept(folder, every, about["data"])
    data: DetectorData | None = None
    for seed in range(seeds):
        for row in (row for row in chosen if row.is_seeded or not seed):
            budget = wanted.budget(row)
            of_row = results.setdefault((row.name, budget), {})
            if seed not in of_row or not wanted.has_all(of_row[seed]):
                data = data or read_data(where, wanted.sizes, mosaics=wanted.mosaics)
                log.info("row %s, seed %d: %s", row.name, seed, budget or row.group)
                path = result_path(folder, row.name, budget, seed)
                result = _result(row, data, seed, wanted, folder / "maps" / f"{path.stem}.jpg")
                result["key"] = _key(row, seed, budget, about["data"])
                keep(path, result)
                _tell(row, result)
                of_row[seed] = result
                _write(folder, results, about)
    return _write(folder, results, about)


def _is_for_gpu(row: Row) -> bool:
    return row.config is not None and row.config.use_gpu


def _kept(folder: Path, every: Sequence[Row], data: str) -> Results:
    """What the folder has of the same configurations and data; results of other commits are named.

    Rows of bundles and of mappings stay whether or not their bundles are named again.
    """
    results: Results = {}
    by_name = {row.name: row for row in every}
    for result in kept(folder):
        name, seed, budget = result["row"], result["seed"], result["budget"]
        training = result["figures"].get("training", {})
        row = by_name.get(name)
        if row is None and result["group"] in GIVEN:
            row = Row(name, result["group"], identity=result.get("identity", training.get("bundle", "")))
        if row is not None and result["key"] == _key(row, seed, budget, data):
            results.setdefault((name, budget), {})[seed] = result
            if result["commit"] != commit():
                log.warning("row %s, seed %d: kept, of commit %s", name, seed, result["commit"])
    return results


def _chosen(only: Sequence[str], every: Sequence[Row], *, over_generators: bool) -> list[Row]:
    if unknown := [name for name in only if not any(fnmatchcase(row.name, name) for row in every)]:
        names = ", ".join(row.name for row in every)
        raise InputError(f"bench detectors has no row {', '.join(sorted(unknown))}; there are: {names}")
    if only:
        return [row for row in every if any(fnmatchcase(row.name, name) for name in only)]
    return [row for row in every if row.group in (*GIVEN, "trivial score") or not over_generators]


def _result(row: Row, data: DetectorData, seed: int, wanted: Wanted, picture: Path) -> dict[str, Any]:
    """The figures of a row and seed, or why there are none; its mosaic is written to `picture`."""
    about = {"row": row.name, "group": row.group, "source": row.source, "seed": seed, "device": wanted.device} | {
        "budget": wanted.budget(row), "identity": row.identity, "commit": commit(),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    make = maker(row, data, seed=seed, minutes=wanted.minutes, device=wanted.device, sizes=wanted.sizes)
    try:
        score, training = make()
        slides = data.slides.get(CALLED[0], [])
        data = judged_on(row, score, data)
        figures = figures_of(
            score, data, most_valid=wanted.most_valid, limit_minutes=wanted.scoring_minutes, now_s=clock(wanted.device)
        )
        figures |= {"training": training, "mosaic": _show(score, slides, picture, figures)} | machine()
    except Exception as error:  # a detector that cannot be trained must not cost the others their rows
        log.debug("row %s", row.name, exc_info=True)
        return about | {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
    return about | {"figures": figures}


def _show(score: Score, slides: Sequence[CutSlide], path: Path, figures: Mapping[str, Any]) -> str:
    """Write the picture of a mosaic as a detector sees it; its address from the page, "" where there is none."""
    pair = shown_pair(slides)
    if pair is None or not isinstance(score, DetectorScore) or figures["cpu_ms_per_tile"] > SHOWN_MS:
        return ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(mosaic_picture(score, *pair)))
    return f"{path.parent.name}/{quote(path.name)}"


def judged_on(row: Row, score: Score, data: DetectorData) -> DetectorData:
    """The tiles that a row is judged on: of a mapping no copies in other stains, of a search none to choose with.

    Of seconds a tile, these would be as many again as those of valid.
    """
    if row.group != "mapping":
        return data
    data = replace(data, shifted={})
    if isinstance(score, DetectorScore) and score.detector.searches:
        data = replace(data, held_normals=data.held_normals[:0], known_tumours=data.known_tumours[:0])
    return data


def _tell(row: Row, result: dict[str, Any]) -> None:
    seed = result["seed"]
    if "failed" in result:
        log.warning("row %s, seed %d: no figures: %s", row.name, seed, result["failed"])
    else:
        log.info("row %s, seed %d: AUROC %.3f", row.name, seed, result["figures"]["tiles"]["auroc"])


def _about(where: Path, wanted: Wanted) -> dict[str, Any]:
    """The data and what of it is used for what, as the page says it; nothing is decoded."""
    files = [where / "pcam" / name for name in ("train.zip", "valid.zip")]
    files += sorted((where / "mosaics").glob("*/manifest.csv"))
    return {
        "data": fingerprint([f"{path.name}:{path.stat().st_size}" for path in files] + [repr(wanted.sizes)]),
        "held_normals": wanted.sizes.held_normals,
        "known_tumours": wanted.sizes.known_tumours,
        "scoring_minutes": wanted.scoring_minutes,
        "alpha": ALPHA,
        "aggregation": new_aggregation().model_dump(mode="json"),
    }


def _key(row: Row, seed: int, budget: str, data: str) -> str:
    """What a result depends on, but for the code: that is said by its commit."""
    config = row.identity or (row.config.model_dump_json() if row.config else "")
    aggregation = new_aggregation().model_dump_json()
    return fingerprint([str(VERSION), row.name, config, str(seed), budget, data, aggregation])


def _write(folder: Path, results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """Write the table of what there is so far; returns what the command prints."""
    made = [(name, [of_row[seed] for seed in sorted(of_row)]) for (name, _), of_row in results.items() if of_row]
    table = labelled(by_auroc([joined(name, of_row) for name, of_row in made]))
    answer = {
        **about,
        "recommended": RECOMMENDED,
        "goals": {path: f"{sign} {goal:g}" for path, (sign, goal) in GOALS.items()},
        "aims": AIMS,
        "goals_met": goals_met(table),
        "mappings": compared(table),
        "rows": table,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "detectors.json").write_text(json.dumps(answer, indent=1), encoding="utf-8")
    (folder / "detectors.csv").write_text(csv_of(table), encoding="utf-8")
    (folder / "detectors.html").write_text(detectors_page(answer), encoding="utf-8")
    return {"out": str(folder)} | answer | {"rows": [_without_curve(row) for row in table]}


def _without_curve(row: dict[str, Any]) -> dict[str, Any]:
    if "mean" not in row:
        return row
    return row | {"mean": {name: value for name, value in row["mean"].items() if name != "roc"}}
