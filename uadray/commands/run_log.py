"""What a training leaves behind while it runs: metrics.jsonl, pictures of its samples, and its page."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from uadray import provenance
from uadray.detectors.pixels import to_pixels
from uadray.generators.catalog import GeneratorConfig
from uadray.generators.pictures import drawn, interpolated
from uadray.networks.outline import Networks
from uadray.reports.pictures import encode_jpeg, sample_grid
from uadray.reports.samples import Shown, samples_page
from uadray.storage import objects
from uadray.training.config import TrainConfig
from uadray.training.loop import Line, Sample

METRICS, SAMPLES, PAGE = "metrics.jsonl", "samples", "samples.html"

DRAWN = {"generated": "drawn.jpg", "interpolation": "interpolation.jpg"}
"""Pictures of the trained generator in `samples/`, by what they show."""

COLUMNS, SEED = 8, 0
"""Of these pictures."""

Progress = Callable[[int, int, dict[str, Any]], None]
"""Called with steps done, steps in all, and the newest values of metrics with the phase they are from."""


class RunLog:
    """metrics.jsonl and samples, written as they come.

    An epoch has one line: what a killed run had written after its last checkpoint is written again by the next one.
    Figures of a validation come after the epoch's line and join it, with their names as `validated`; a line that is
    told again, after a checkpoint, keeps them.
    """

    def __init__(self, out: str, config: TrainConfig, progress: Progress | None, *, keep: bool) -> None:
        self._out, self._config, self._progress = out, config, progress
        self._done, self._total = 0, config.epochs * config.steps_per_epoch
        self._lines = {int(line["epoch"]): line for line in read_lines(out)} if keep else {}
        self._early: dict[int, Line] = {}  # validations whose epoch's line has not come
        self._shown: Shown = "reconstructions" if config.detector is not None else "generated"
        self._newest: Line = {}

    def take(self, lines: list[Line], samples: list[Sample]) -> None:
        """Write what was told."""
        self._tell(lines)
        for epoch, x, x_hat in samples:
            self._shown = "tiles" if x_hat is None else self._shown
            picture_uri = objects.join(self._out, SAMPLES, f"epoch_{epoch:04d}.jpg")
            objects.write_bytes(picture_uri, encode_jpeg(sample_grid(x, x_hat)), content_type="image/jpeg")
        changed = [self._validate(line) if line.get("validated") else self._end(line) for line in lines]
        if any(changed):
            text = "".join(provenance.json_line(line) + "\n" for line in self._lines.values())
            objects.write_bytes(objects.join(self._out, METRICS), text.encode())
            self.write_page()

    def write_page(self) -> None:
        """Write the page, at every epoch and once the trained generator's pictures are there."""
        folder = objects.join(self._out, SAMPLES)
        names = sorted((objects.name(i.uri) for i in objects.list_objects(folder, suffixes=(".jpg",))), reverse=True)
        page = samples_page(
            self._config.name,
            [name for name in names if name not in DRAWN.values()],
            self._shown,
            lines=list(self._lines.values()),
            drawn={what: name for what, name in DRAWN.items() if name in names},
        )
        objects.write_bytes(objects.join(self._out, PAGE), page.encode(), content_type="text/html")

    def draw(self, generator: GeneratorConfig, networks: Networks) -> None:
        """Draw what a trained generator makes: pictures, and those on the way from one to the next."""
        n = max(COLUMNS, min(32, 32 * 128 // generator.input_px))
        pictures = [to_pixels(x) for x in drawn(generator, networks, n, seed=SEED, batch=COLUMNS)]
        ways = [to_pixels(x) for x in interpolated(generator, networks, seed=SEED, steps=COLUMNS)]
        for what, tiles in (("generated", pictures), ("interpolation", ways)):
            grid = sample_grid(np.concatenate(tiles), None, columns=COLUMNS)
            uri = objects.join(self._out, SAMPLES, DRAWN[what])
            objects.write_bytes(uri, encode_jpeg(grid), content_type="image/jpeg")

    def _tell(self, lines: list[Line]) -> None:
        """Show the newest: a step's line has no losses, those of the last epoch stay."""
        for line in lines:
            if line.get("validated"):
                figures = _figures(line)
                self._newest |= figures | {"validated": sorted({*self._newest.get("validated", []), *figures})}
            else:
                self._newest |= {k: v for k, v in line.items() if k != "end_of_epoch"}
                self._done = int(line["step"])
        if lines and self._progress is not None:
            self._progress(self._done, self._total, dict(self._newest))

    def _end(self, line: Line) -> bool:
        """An epoch's line, if it is one; returns whether it is news."""
        if not line.pop("end_of_epoch", False):
            return False
        epoch = int(line["epoch"])
        known = self._lines.get(epoch, {})
        if known and all(known.get(name) == value for name, value in line.items()):
            return False
        self._early = {e: figures for e, figures in self._early.items() if e <= epoch}
        earlier = {e: kept for e, kept in self._lines.items() if e < epoch}
        self._lines = earlier | {epoch: line | self._early.pop(epoch, {})}
        return True

    def _validate(self, line: Line) -> bool:
        """Figures of a validation; returns whether they have joined a line."""
        epoch, figures = int(line["epoch"]), _figures(line)
        known = self._lines.get(epoch) or self._early.setdefault(epoch, {})
        known |= figures | {"validated": sorted({*known.get("validated", []), *figures})}
        return epoch in self._lines


def _figures(line: Line) -> Line:
    """What a line of a validation says."""
    return {name: value for name, value in line.items() if name not in ("epoch", "step", "validated")}


def read_lines(out: str) -> list[Line]:
    """The lines of metrics of a run, one for each epoch; none where it has not come to one."""
    uri = objects.join(out, METRICS)
    text = objects.read_bytes(uri).decode() if objects.exists(uri) else ""
    return [json.loads(line) for line in text.splitlines()]


def progress_text(line: Line) -> str:
    """The newest losses and their phase, as the progress bar shows them.

    >>> progress_text({"epoch": 1, "step": 7, "phase": "gan", "seconds": 2.0, "wasserstein": 0.25})
    'gan: wasserstein 0.25'
    >>> progress_text({"epoch": 0, "step": 0, "phase": "prepare"})
    'prepare'
    """
    losses = ", ".join(f"{name} {value:.3g}" for name, value in figures_of(line).items())
    return ": ".join(part for part in (str(line.get("phase", "")), losses) if part)


def figures_of(line: Line) -> dict[str, float]:
    """Losses and validation figures of a line of metrics: what is neither its place nor its pace."""
    hidden = {"epoch", "step", "seconds", "waiting", "end_of_epoch"}
    return {name: value for name, value in line.items() if isinstance(value, float) and name not in hidden}
