"""`uadray train`: data -> trained networks -> a bundle, metrics.jsonl and a page of samples; on Ray or without it."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import yaml

from uadray import provenance
from uadray.commands.progress import progress
from uadray.config import parse_config
from uadray.detectors.bundle import Bundle, write_bundle
from uadray.errors import InputError
from uadray.generators.bundle import GeneratorBundle, write_generator
from uadray.networks import weights
from uadray.networks.outline import Networks
from uadray.reports.pictures import encode_jpeg, sample_grid
from uadray.reports.samples import Shown, samples_page
from uadray.slides.manifest import read_manifest
from uadray.storage import objects
from uadray.tiles.spec import TileSpec, as_kept
from uadray.tilesets import containers
from uadray.training import given, plain
from uadray.training.config import TrainConfig
from uadray.training.dataset import normal_rows, training_tiles
from uadray.training.held import OF_SLIDES
from uadray.training.loop import IMAGES, Line, Listener, Sample
from uadray.training.subject import borrowed_weights
from uadray.training.survey import in_threads

if TYPE_CHECKING:  # `--without-ray` runs where Ray is not installed
    from uadray.cluster.nodes import Nodes

CONFIG, METRICS = "config.yaml", "metrics.jsonl"

Progress = Callable[[int, int, dict[str, Any]], None]
"""Called with steps done, steps in all, and the newest line of metrics with the phase it is in."""

Trained = tuple[Networks, Line, TileSpec, dict[str, Any]]
"""The networks, the last line of metrics, how tiles were cut, and what was trained on."""


def run(config: TrainConfig, *, data: str, out: str, resume: bool, without_ray: bool) -> dict[str, Any]:
    """Train, on the cluster or in this process, with a progress bar.

    Returns:
        Where the bundle is, its id, the last metrics, and counts of what it was trained on.
    """
    check(config, data=data, out=out, resume=resume, without_ray=without_ray)
    with progress(f"train {config.name}") as tick:
        bundle = train(
            config, data=data, out=out, resume=resume, without_ray=without_ray,
            nodes=None if without_ray else _nodes(out),
            progress=lambda done, total, line: tick(done, total, progress_text(line)),
        )  # fmt: skip
    counts = {name: value for name, value in bundle.training_data.items() if name not in ("slides", "salt", "members")}
    return {"bundle": out, "id": bundle.id, "metrics": bundle.metrics, "data": counts}


def _nodes(out: str) -> "Nodes":
    from uadray.commands.cluster import join_cluster

    return join_cluster(out_uri=out)


def train(
    config: TrainConfig, *, data: str, out: str, resume: bool = False, progress: Progress | None = None,
    nodes: "Nodes | None" = None, without_ray: bool = False,
) -> Bundle | GeneratorBundle:  # fmt: skip
    """Train a detector or a generator and write it as a bundle.

    Args:
        config: the run.
        data: URI of a slide manifest or a tile set.
        out: URI of a folder; gets the bundle, `config.yaml`, `metrics.jsonl`, `samples.html`, `checkpoints/`.
        resume: go on from the last checkpoint in `out`.
        progress: told of every step.
        nodes: that are used.
        without_ray: train in this process.

    Raises:
        InputError: `out` holds another run, or the data is unusable.
        WorkError: the workers failed for good.
    """
    config = given.completed(config)
    config = _as_begun(config, out) if resume else config
    _check_free(out, config, resume=resume, without_ray=without_ray)
    if not containers.is_tile_set(data):
        given.check_held_out(config, normal_rows(data, config.train_label, config.train_split))
    for name in borrowed_weights(config):
        weights.ensure(name)
    log = RunLog(out, config, progress, keep=resume)
    if without_ray:
        trained = _trained_here(config, data, out, log.take)
    else:
        trained = _trained_on_ray(config, data, out, log.take, nodes)
    bundle = _write(config, out, *trained)
    log.close()
    return bundle


def _trained_here(config: TrainConfig, data: str, out: str, listener: Listener) -> Trained:
    tiles = training_tiles(
        data, tiles=config.trained_tiles, input_px=config.input_px, tiles_per_slide=config.tiles_per_slide,
        label=config.train_label, seed=config.seed, survey_each=in_threads, split=config.train_split,
        seen_before=given.seen_before(config),
    )  # fmt: skip
    given.check_other_tiles(config, tiles.description)
    _begin(config, data, out, tiles.n_tiles)
    networks, last = plain.train_plain(config, tiles.source, out=out, listener=listener)
    return networks, last, tiles.tiles, tiles.description


def _trained_on_ray(config: TrainConfig, data: str, out: str, listener: Listener, nodes: "Nodes | None") -> Trained:
    from uadray.training.ray_dataset import training_data
    from uadray.training.worker import fit

    tiles = training_data(
        data, tiles=config.trained_tiles, input_px=config.input_px, tiles_per_slide=config.tiles_per_slide,
        label=config.train_label, seed=config.seed, stain_augment=config.stain_augment,
        nodes=nodes, split=config.train_split, seen_before=given.seen_before(config),
    )  # fmt: skip
    given.check_other_tiles(config, tiles.description)
    _begin(config, data, out, tiles.n_tiles)
    filesystem, path = objects.pyarrow_filesystem(out)
    networks, last = fit(config, tiles, filesystem=filesystem, path=path, listener=listener, nodes=nodes)
    return networks, last, tiles.tiles, tiles.description


def _begin(config: TrainConfig, data: str, out: str, n_tiles: int) -> None:
    """Refuse too few tiles; then the folder is this run's."""
    if n_tiles < config.batch_size * config.workers:
        raise InputError(f"{data}: {n_tiles} tiles are fewer than a batch of {config.batch_size} a worker")
    objects.write_bytes(objects.join(out, CONFIG), provenance.dump_config(config).encode())


def _write(
    config: TrainConfig, out: str, networks: Networks, last: Line, tiles: TileSpec, description: dict[str, Any]
) -> Bundle | GeneratorBundle:
    common = {
        "name": config.name, "tiles": tiles.model_copy(update={"min_tissue": config.tiles.min_tissue}),
        "training_data": description | given.parts_of(config) | {"crops": config.tiles_taken(0) + int(last[IMAGES])},
        "metrics": {k: v for k, v in last.items() if isinstance(v, int | float)},
        "commit": provenance.commit(), "licences": given.licences(config),
    }  # fmt: skip
    if config.detector is not None:
        return write_bundle(out, networks, detector=config.detector, **common)
    return write_generator(out, networks, generator=config.generator, **common)


class RunLog:
    """metrics.jsonl and samples, written as they come.

    An epoch has one line: what a killed run had written after its last checkpoint is written again by the next one.
    """

    def __init__(self, out: str, config: TrainConfig, progress: Progress | None, *, keep: bool) -> None:
        self._out, self._progress, self._total = out, progress, config.epochs * config.steps_per_epoch
        metrics_uri = objects.join(out, METRICS)
        old = objects.read_bytes(metrics_uri).decode() if keep and objects.exists(metrics_uri) else ""
        self._lines = {int(json.loads(line)["epoch"]): line for line in old.splitlines()}
        self._title = config.name
        self._shown: Shown = "reconstructions" if config.detector is not None else "generated"
        self._newest: Line = {}

    def take(self, lines: list[Line], samples: list[Sample]) -> None:
        """Write what was told."""
        if lines and self._progress is not None:
            self._newest |= lines[-1]  # a step's line has no losses: those of the last epoch stay
            self._progress(int(lines[-1]["step"]), self._total, dict(self._newest))
        finished = [line for line in lines if line.pop("end_of_epoch", False)]
        for epoch, x, x_hat in samples:
            self._shown = "tiles" if x_hat is None else self._shown
            picture_uri = objects.join(self._out, "samples", f"epoch_{epoch:04d}.jpg")
            objects.write_bytes(picture_uri, encode_jpeg(sample_grid(x, x_hat)), content_type="image/jpeg")
        for line in finished:
            earlier = {epoch: text for epoch, text in self._lines.items() if epoch < line["epoch"]}
            self._lines = earlier | {line["epoch"]: provenance.json_line(line)}
        if finished:
            objects.write_bytes(objects.join(self._out, METRICS), ("\n".join(self._lines.values()) + "\n").encode())

    def close(self) -> None:
        """Write the page of samples, newest first."""
        folder = objects.join(self._out, "samples")
        names = sorted((objects.name(i.uri) for i in objects.list_objects(folder, suffixes=(".jpg",))), reverse=True)
        page = samples_page(self._title, names, self._shown)
        objects.write_bytes(objects.join(self._out, "samples.html"), page.encode(), content_type="text/html")


def progress_text(line: Line) -> str:
    """The newest losses and their phase, as the progress bar shows them.

    >>> progress_text({"epoch": 1, "step": 7, "phase": "gan", "seconds": 2.0, "wasserstein": 0.25})
    'gan: wasserstein 0.25'
    >>> progress_text({"epoch": 0, "step": 0, "phase": "prepare"})
    'prepare'
    """
    hidden = {"epoch", "step", "seconds", "waiting", "end_of_epoch"}
    losses = ", ".join(f"{k} {v:.3g}" for k, v in line.items() if isinstance(v, float) and k not in hidden)
    return ": ".join(part for part in (str(line.get("phase", "")), losses) if part)


def check(config: TrainConfig, *, data: str, out: str, resume: bool = False, without_ray: bool = False) -> None:
    """Refuse what can be refused before a cluster is joined.

    Raises:
        InputError: see `train`.
    """
    config = given.completed(config)
    config = _as_begun(config, out) if resume else config
    _check_free(out, config, resume=resume, without_ray=without_ray)
    if without_ray:
        plain.check_here(config)
    elif config.hold_tiles:
        raise InputError("hold_tiles is for one process: add --without-ray, or set it to false")
    given.check_generator(config)
    if containers.is_tile_set(data):
        containers.check(data)
    elif config.hold_tiles:
        raise InputError(OF_SLIDES)
    else:
        read_manifest(data, split=config.train_split)


def _as_begun(config: TrainConfig, out: str) -> TrainConfig:
    """The configuration, with the `tiles.max_coarser` of the run in `out` unless it names one: the default is new."""
    config_uri = objects.join(out, CONFIG)
    if "max_coarser" in config.tiles.model_fields_set or not objects.exists(config_uri):
        return config
    tiles = config.tiles.model_copy(update={"max_coarser": _read_config(config_uri).tiles.max_coarser})
    return config.model_copy(update={"tiles": tiles})


def _read_config(config_uri: str) -> TrainConfig:
    """The configuration that a run has left."""
    values = yaml.safe_load(objects.read_bytes(config_uri))
    if isinstance(values, dict) and "tiles" in values:
        values["tiles"] = as_kept(values["tiles"])
    return parse_config(TrainConfig, values, source=config_uri)


def _check_free(out: str, config: TrainConfig, *, resume: bool, without_ray: bool) -> None:
    """An output folder belongs to one configuration and one host; `--resume` goes on, anything else is refused."""
    config_uri = objects.join(out, CONFIG)
    if not objects.exists(config_uri):
        return
    if not resume:
        raise InputError(f"{out} already holds a training; use --resume to go on with it, or another --out")
    before = _read_config(config_uri)
    values, now = before.model_dump(mode="json"), config.model_dump(mode="json")
    changed = sorted(k for k in values.keys() | now.keys() if values.get(k) != now.get(k))
    if changed:
        raise InputError(
            f"{out} was started with another configuration ({', '.join(changed)} differ); use another --out"
        )
    if without_ray and plain.is_rays(out):
        raise InputError(f"{out} was trained on Ray; go on without --without-ray, or use another --out")
    if not without_ray and plain.epochs_kept(out):
        raise InputError(f"{out} was trained without Ray; go on with --without-ray, or use another --out")
