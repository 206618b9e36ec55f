"""What `bench alerts` screens: painted slides of two stains, some damaged, and a bundle calibrated on one stain."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import torch

from uadray.bench.command import Command, shortened
from uadray.bench.live_system import LiveSystem
from uadray.bench.slides import MPP, write_slide, write_tiny_bundle
from uadray.detectors.bundle import CALIBRATION
from uadray.errors import WorkError
from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.pyramid import write_pyramid
from uadray.phantoms.tissue import paint
from uadray.screening.assembly import assembled
from uadray.screening.bundles import arranged, calibrated_bundle
from uadray.screening.scorer import PartScorer
from uadray.screening.slide_reader import read_slide
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

NORMALS = 40
"""Slides that the bundle is calibrated on."""

SMALL_PX, LARGE_PX = 384, 2048
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
        """Copies of a large slide come in."""
        if not self._large:
            self._large = write_slide(self.folder / "large.tif", repeats=1, phantom_px=LARGE_PX).read_bytes()
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

    def calibrate(self, system: LiveSystem) -> None:
        """Score `NORMALS` slides of the first stain for the bundle, and make the calibration old.

        Raises:
            WorkError: the command fails.
        """
        for seed in range(NORMALS):
            objects.write_bytes(f"{self.root}/normal/n{seed:03}.tif", self._painted(seed, self.stains[0]))
        with system.command("calibrate", self.bundle, "--slides", f"{self.root}/normal/") as command:
            if command.wait(120) != 0:
                raise WorkError(f"the bench's own calibration: {shortened(command.lines)}")
        uri = objects.join(self.bundle, CALIBRATION)
        made = json.loads(objects.read_bytes(uri)) | {"made": MADE}
        objects.write_bytes(uri, json.dumps(made).encode())

    def _painted(self, seed: int, stain: int) -> bytes:
        image, _ = paint(PhantomSpec(SMALL_PX, SMALL_PX, MPP, lesion=False, stain=stain, seed=seed))
        return write_pyramid(self.folder / "painted.tif", image, mpp=MPP, downsamples=(2,)).read_bytes()

    def order_stains(self) -> None:
        """Take as the other stain that which the untrained bundle scores higher."""
        means = [fmean(_scores(self.bundle, self._path(stain))) for stain in self.stains]
        if means[0] > means[1]:
            self.stains = (self.stains[1], self.stains[0])

    def _path(self, stain: int) -> Path:
        path = self.folder / f"stain{stain}.tif"
        path.write_bytes(self._painted(1, stain))
        return path


def made(folder: Path, root: str) -> Archive:
    """The folder and the bundle, which still needs its calibration."""
    torch.manual_seed(0)
    archive = Archive(root, folder)
    write_tiny_bundle(archive.bundle)
    archive.order_stains()
    return archive


def _scores(bundle_uri: str, path: Path) -> list[float]:
    """The scores of a slide's tiles, reckoned here."""
    bundles = arranged([calibrated_bundle(bundle_uri)])
    scorer, parts = PartScorer({each.uri: each.bundle for each in bundles}, "cpu", threads=1), {}
    row = SlideRow("s", str(path))
    for table in read_slide(0, row, bundles[0].bundle.tiles):
        (part,) = scorer(table).to_pylist()
        parts[part["part"]] = part
        result = assembled(row, part, parts)
    if result is None or (tiles := result.of_bundle(0).tiles) is None:
        raise WorkError("the bench's own slide cannot be scored")
    return [float(score) for score in tiles["score"].to_pylist()]
