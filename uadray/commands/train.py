"""`uadray train`: data -> Ray Train workers -> bundle, metrics.jsonl and a page of sample reconstructions."""

import html
import json
from collections.abc import Callable
from typing import Any

import yaml

from uadray import provenance
from uadray.cluster.nodes import Nodes
from uadray.detectors.bundle import Bundle, write_bundle
from uadray.detectors.catalog import file_of
from uadray.errors import InputError
from uadray.networks import weights
from uadray.reports.pictures import encode_jpeg, sample_grid
from uadray.slides.manifest import read_manifest
from uadray.storage import objects
from uadray.tilesets import containers
from uadray.training.config import TrainConfig
from uadray.training.dataset import training_data
from uadray.training.plain import Line
from uadray.training.worker import Sample, fit

CONFIG, METRICS = "config.yaml", "metrics.jsonl"

Progress = Callable[[int, int, dict[str, Any]], None]
"""Called with steps done, steps in all, and the newest line of metrics."""


def train(
    config: TrainConfig, *, data: str, out: str, resume: bool = False, progress: Progress | None = None,
    nodes: Nodes | None = None,
) -> Bundle:  # fmt: skip
    """Train a detector and write it as a bundle.

    Args:
        config: the run.
        data: URI of a slide manifest or a tile set.
        out: URI of a folder; gets the bundle, `config.yaml`, `metrics.jsonl`, `samples.html`, `checkpoints/`.
        resume: go on from the last checkpoint in `out`.
        progress: told of every step.
        nodes: that are used.

    Raises:
        InputError: `out` holds another run, or the data is unusable.
        WorkError: the workers failed for good.
    """
    _check_free(out, config, resume=resume)
    _pull_weights(config)
    source = training_data(
        data, tiles=config.tiles, input_px=config.detector.input_px, tiles_per_slide=config.tiles_per_slide,
        label=config.train_label, n_tiles=config.tiles_needed, seed=config.seed, stain_augment=config.stain_augment,
        nodes=nodes,
    )  # fmt: skip
    if source.n_tiles < config.batch_size * config.workers:
        raise InputError(f"{data}: {source.n_tiles} tiles are fewer than a batch of {config.batch_size} a worker")
    objects.write_bytes(objects.join(out, CONFIG), provenance.dump_config(config).encode())
    log = RunLog(out, config, progress, keep=resume)
    filesystem, path = objects.pyarrow_filesystem(out)
    networks, last = fit(config, source, filesystem=filesystem, path=path, listener=log.take, nodes=nodes)
    bundle = write_bundle(
        out, networks, name=config.name, detector=config.detector, tiles=source.tiles,
        training_data=source.description, metrics={k: v for k, v in last.items() if isinstance(v, int | float)},
        commit=provenance.commit(), licences=_licences(config),
    )  # fmt: skip
    log.close()
    return bundle


class RunLog:
    """metrics.jsonl and samples, written as they come.

    An epoch has one line: what a killed run had written after its last checkpoint is written again by the next one.
    """

    def __init__(self, out: str, config: TrainConfig, progress: Progress | None, *, keep: bool) -> None:
        self._out, self._progress, self._total = out, progress, config.epochs * config.steps_per_epoch
        where = objects.join(out, METRICS)
        old = objects.read_bytes(where).decode() if keep and objects.exists(where) else ""
        self._lines = {int(json.loads(line)["epoch"]): line for line in old.splitlines()}
        self._title = config.name

    def take(self, lines: list[Line], samples: list[Sample]) -> None:
        """Write what rank 0 posted."""
        if lines and self._progress is not None:
            self._progress(int(lines[-1]["step"]), self._total, lines[-1])
        finished = [line for line in lines if line.pop("end_of_epoch", False)]
        for epoch, x, x_hat in samples:
            where = objects.join(self._out, "samples", f"epoch_{epoch:04d}.jpg")
            objects.write_bytes(
                where, encode_jpeg(sample_grid(x, x if x_hat is None else x_hat)), content_type="image/jpeg"
            )
        for line in finished:
            earlier = {epoch: text for epoch, text in self._lines.items() if epoch < line["epoch"]}
            self._lines = earlier | {line["epoch"]: provenance.json_line(line)}
        if finished:
            objects.write_bytes(objects.join(self._out, METRICS), ("\n".join(self._lines.values()) + "\n").encode())

    def close(self) -> None:
        """Write the page of samples, newest first."""
        folder = objects.join(self._out, "samples")
        names = sorted((objects.name(i.uri) for i in objects.list_objects(folder, suffixes=(".jpg",))), reverse=True)
        objects.write_bytes(
            objects.join(self._out, "samples.html"), samples_page(self._title, names).encode(), content_type="text/html"
        )


def samples_page(title: str, names: list[str]) -> str:
    """HTML of the sample pictures `names` in `samples/`."""
    figures = "".join(
        f'<figure><img src="samples/{html.escape(n)}" loading="lazy" alt=""><figcaption>{html.escape(n[:-4])}'
        "</figcaption></figure>"
        for n in names
    )
    style = "body{font:15px system-ui;margin:2rem;max-width:70rem}img{max-width:100%;image-rendering:pixelated}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}: samples</title>'
        f"<style>{style}</style><h1>{html.escape(title)}</h1><p>Training tiles (upper rows) over their "
        f"reconstructions (lower rows), newest epoch first.</p>{figures}</html>"
    )


def check(config: TrainConfig, *, data: str, out: str, resume: bool = False) -> None:
    """Refuse what can be refused before a cluster is joined.

    Raises:
        InputError: see `train`.
    """
    _check_free(out, config, resume=resume)
    if containers.is_tile_set(data):
        containers.check(data)
    else:
        read_manifest(data)


def _check_free(out: str, config: TrainConfig, *, resume: bool) -> None:
    """An output folder belongs to one configuration; `--resume` goes on, anything else is refused."""
    where, text = objects.join(out, CONFIG), provenance.dump_config(config)
    if not objects.exists(where):
        return
    if not resume:
        raise InputError(f"{out} already holds a training; use --resume to go on with it, or another --out")
    before, now = (yaml.safe_load(t) for t in (objects.read_bytes(where).decode(), text))
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if changed:
        raise InputError(
            f"{out} was started with another configuration ({', '.join(changed)} differ); use another --out"
        )


def _pull_weights(config: TrainConfig) -> None:
    for name in file_of(config.detector).borrowed_weights(config.detector):
        weights.ensure(name)


def _licences(config: TrainConfig) -> dict[str, str]:
    names = file_of(config.detector).borrowed_weights(config.detector)
    return {entry.name: entry.licence for entry in weights.registry() if entry.name in names}
