"""What `bench alerts` screens: painted slides of two stains, some damaged, and a bundle calibrated on one stain."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from uadray.bench.command import Command, shortened
from uadray.bench.live_system import LiveSystem
from uadray.bench.slides import MPP, write_tiny_bundle
from uadray.decisions.conformal import NormalSlide
from uadray.detectors.bundle import CALIBRATION
from uadray.errors import WorkError
from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.pyramid import write_pyramid
from uadray.phantoms.tissue import paint
from uadray.screening.assembly import assembled
from uadray.screening.bundles import ScreeningBundle, arranged, calibrated_bundle
from uadray.screening.scorer import PartScorer
from uadray.screening.slide_outputs import measures_of
from uadray.screening.slide_reader import read_slide
from uadray.screening.slide_result import SlideResult
from uadray.screening.verdicts import verdicts_of
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

NORMALS = 40
"""Slides that the bundle is calibrated on."""

SMALL_PX, LARGE_PX = 384, 6144
"""Sides of slides: a small one has 9 tiles, a large one 2,304, most of them glass."""

MADE = "2025-01-01T00:00:00+00:00"
"""When the calibration says that it was made: a year and more ago, and that is too old."""


@dataclass
class Archive:
    """A folder that slides come into.

    Attributes:
        root: URI of the bucket.
        folder: for files of this machine.
        stains: that of the calibration, and the other one.
    """

    root: str
    folder: Path
    stains: tuple[int, int] = (0, 1)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _large: bytes = b""

    @property
    def bundle(self) -> str:
        """Where the bundle lies."""
        return f"{self.root}/bundle"

    @property
    def slides(self) -> str:
        """The folder that slides come into."""
        return f"{self.root}/in/"

    @property
    def out(self) -> str:
        """The screening."""
        return f"{self.root}/out"

    def put(self, n: int, *, other_stain: bool = False, damaged: bool = False) -> None:
        """Small slides come in, each another one. A damaged one is half of a file."""
        for _ in range(n):
            number = next(self._numbers)
            data = self._painted(1000 + number, self.stains[other_stain])
            name = f"{'a' if damaged else 'b'}{number:05}.tif"
            objects.write_bytes(f"{self.slides}{name}", data[: len(data) // 2] if damaged else data)

    def put_large(self, n: int) -> None:
        """Copies of a large slide come in: seconds of work each, and few bytes."""
        if not self._large:
            image, _ = paint(PhantomSpec(1024, 1024, MPP, lesion=False, stain=self.stains[0], seed=0))
            wide = np.pad(image, ((0, LARGE_PX - 1024), (0, LARGE_PX - 1024), (0, 0)), constant_values=255)
            self._large = write_pyramid(self.folder / "large.tif", wide, mpp=MPP, downsamples=(2, 4, 8)).read_bytes()
        for _ in range(n):
            objects.write_bytes(f"{self.slides}c{next(self._numbers):05}.tif", self._large)

    @contextmanager
    def screening(self, system: LiveSystem) -> Iterator[Command]:
        """`uadray screen --follow` of the folder; killed at the end of the block, where it still runs."""
        arguments = [self.bundle, "--slides", self.slides, "--out", self.out]
        options = ["--follow", "--settle-seconds", "0", "--score-workers", "1", "--renew-minutes", "60"]
        with system.command("screen", *arguments, *options) as command:
            yield command
        system.notes.append(str(shortened(command.lines, n=3)))

    def calibrate(self) -> None:
        """Give the bundle a calibration of `NORMALS` slides of the first stain, as `uadray calibrate` does, and old."""
        (bundle,) = arranged([calibrated_bundle(self.bundle)])
        results = [_scored(bundle, self._path(self.stains[0], seed)) for seed in range(NORMALS)]
        scores = [float(verdicts_of(result, [bundle])[0]["score"]) for result in results]
        normals = tuple(NormalSlide.model_validate(measures_of(result)) for result in results)
        made = bundle.calibration.model_copy(
            update={"scores": tuple(sorted(scores)), "normals": normals, "made": MADE, "id": "bench-alerts"}
        )
        objects.write_bytes(objects.join(self.bundle, CALIBRATION), made.model_dump_json().encode())

    def _painted(self, seed: int, stain: int) -> bytes:
        image, _ = paint(PhantomSpec(SMALL_PX, SMALL_PX, MPP, lesion=False, stain=stain, seed=seed))
        return write_pyramid(self.folder / "painted.tif", image, mpp=MPP, downsamples=(2,)).read_bytes()

    def order_stains(self) -> None:
        """Take as the other stain that which the untrained bundle scores higher."""
        (bundle,) = arranged([calibrated_bundle(self.bundle)])
        first, second = (_mean_score(_scored(bundle, self._path(stain, 1))) for stain in self.stains)
        if first > second:
            self.stains = (self.stains[1], self.stains[0])

    def _path(self, stain: int, seed: int) -> Path:
        path = self.folder / f"stain{stain}-{seed}.tif"
        path.write_bytes(self._painted(seed, stain))
        return path


def made(folder: Path, root: str) -> Archive:
    """The folder, and the bundle with its calibration."""
    torch.manual_seed(0)
    archive = Archive(root, folder)
    write_tiny_bundle(archive.bundle)
    archive.order_stains()
    archive.calibrate()
    return archive


def _scored(bundle: ScreeningBundle, path: Path) -> SlideResult:
    """The result of a slide, scored in this process."""
    scorer, row = PartScorer({bundle.uri: bundle.bundle}, "cpu", threads=1), SlideRow(path.stem, str(path))
    parts: dict[int, dict[str, Any]] = {}
    for table in read_slide(0, row, bundle.bundle.tiles):
        (part,) = scorer(table).to_pylist()
        parts[part["part"]] = part
        if (result := assembled(row, part, parts)) is not None:
            return result
    raise WorkError("the bench's own slide cannot be scored")


def _mean_score(result: SlideResult) -> float:
    tiles = result.of_bundle().tiles
    return float("nan") if tiles is None else fmean(tiles["score"].to_pylist())
