"""`uadray demo`: phantom slides -> training -> calibration -> screening -> evaluation, in minutes on two cores.

The lesions on the painted slides differ from normal tissue in nuclear size, density and order, not in mean colour, so
that only texture tells them apart. The decisions are those of a real screening; the tissue is not real.
"""

import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from uadray.cluster.connection import connect
from uadray.commands.calibrate import calibrate
from uadray.commands.progress import Tick
from uadray.commands.train import train
from uadray.config import parse_config
from uadray.decisions.aggregation import new_aggregation
from uadray.detectors.bundle import read_bundle
from uadray.errors import InputError
from uadray.evaluation.report import evaluate
from uadray.phantoms.archive import write_archive
from uadray.screening import job
from uadray.screening.bundles import ScreeningBundle
from uadray.slides.manifest import read_manifest
from uadray.storage import objects
from uadray.training.config import TrainConfig

ALPHA = 0.1
"""The false-alarm rate. It needs nine calibration slides at least, since no p-value is below 1 / (n + 1)."""

SLIDES = {"train": (12, 0), "calibration": (19, 0), "test": (12, 6)}
"""Of each archive, how many slides it has and how many of them have lesions."""

SIZE_PX = 2048
MARK = ".uadray-demo"
"""A folder with this file was made by the demo, which may empty it and use it again."""

EPOCHS = 4

TRAIN = {
    "name": "demo",
    "detector": {"kind": "enlarged_nuclei", "input_px": 64, "mpp": 1.0},
    "tiles": {"mpp": 1.0, "tile_px": 64, "stride_px": 64, "min_tissue": 0.5},
    "steps_per_epoch": 18,
    "batch_size": 64,
}
"""As `configs/train/enlarged_nuclei.yaml`, for tiles of the painted slides."""


def run(out: str, tick: Tick, *, epochs: int = EPOCHS) -> dict[str, Any]:
    """Do the whole job in the local folder `out`.

    Args:
        out: emptied first if the demo made it.
        tick: shows the step the demo is at.
        epochs: of the training.

    Returns:
        `slide_auroc`, `tile_auroc`, `trivial`, `tiles_per_second`, `worklist`, seconds by stage.
    """
    folder = _fresh(out)
    seconds: dict[str, float] = {}
    started = time.perf_counter()

    def done(stage: str) -> None:
        seconds[stage] = round(time.perf_counter() - started - sum(seconds.values()), 1)

    tick(0, 5, "painting slides")
    manifests = paint_archives(folder / "slides")
    done("paint")
    connect()
    config = parse_config(TrainConfig, TRAIN | {"epochs": epochs}, source="the demo")
    bundle_uri, result_uri = str(folder / "bundle"), str(folder / "screening")
    train(
        config, data=str(manifests["train"]), out=bundle_uri, progress=lambda s, n, _: tick(1, 5, f"training {s}/{n}")
    )
    bundle = read_bundle(bundle_uri)
    done("train")
    calibration, _ = calibrate(
        read_manifest(str(manifests["calibration"])), bundle_uri=bundle_uri, bundle=bundle, alpha=ALPHA,
        aggregation=new_aggregation(), progress=lambda s, n, *_: tick(2, 5, f"calibrating {s}/{n}"),
    )  # fmt: skip
    done("calibrate")
    summary = job.screen(
        read_manifest(str(manifests["test"])), bundles=[ScreeningBundle(bundle_uri, bundle, calibration)],
        out=result_uri, progress=lambda s, n, *_: tick(3, 5, f"screening {s}/{n}"),
    )  # fmt: skip
    done("screen")
    figures = evaluate(result_uri, labels=str(manifests["test"]))
    done("evaluate")
    tick(5, 5, "done")
    kept = ("slide_auroc", "tile_auroc", "trivial", "found", "false_alarms", "alpha")
    return {name: figures[name] for name in kept} | {
        "slides": summary["slides"],
        "failed": summary["failed"],
        "tiles_per_second": round(summary["tiles_per_second"], 1),
        "seconds": seconds,
        "worklist": str(Path(summary["worklist"]).resolve()),
    }


def paint_archives(folder: Path) -> dict[str, Path]:
    """Paint the three archives, each in a process, and return their manifests."""
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {
            name: pool.submit(
                write_archive, folder / name, n_slides=n, n_lesion=lesion, seed=seed, size_px=SIZE_PX, prefix=name
            )
            for seed, (name, (n, lesion)) in enumerate(SLIDES.items())
        }
        return {name: job.result() for name, job in jobs.items()}


def _fresh(out: str) -> Path:
    """The folder, emptied; a folder with files that the demo did not write is refused."""
    if objects.is_s3(out):
        raise InputError(f"the demo writes to a local folder, not to {out}")
    folder = Path(out)
    if folder.exists() and any(os.scandir(folder)):
        if not (folder / MARK).exists():
            raise InputError(f"{folder} is not empty and was not made by the demo; give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("made by `uadray demo`, which may remove it\n", encoding="utf-8")
    return folder
