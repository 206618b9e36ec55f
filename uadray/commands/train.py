"""`uadray train`: data -> trained networks -> a bundle, metrics.jsonl and a page of samples; on Ray or without it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import yaml

from uadray import provenance
from uadray.classifiers.bundle import ClassifierBundle, write_classifier
from uadray.commands import console
from uadray.commands.beside import Job, Teller
from uadray.commands.children import end_with_parent
from uadray.commands.progress import progress
from uadray.commands.run_log import Progress, RunLog, progress_text
from uadray.config import parse_config
from uadray.detectors.bundle import Bundle, write_bundle
from uadray.errors import InputError
from uadray.evaluation.generation import validator_for
from uadray.generators.bundle import GeneratorBundle, write_generator
from uadray.networks import weights
from uadray.networks.bundle_description import seen_of
from uadray.networks.outline import Networks
from uadray.slides.manifest import read_manifest
from uadray.storage import objects
from uadray.tiles.spec import TileSpec, as_kept
from uadray.tilesets import containers
from uadray.training import given, plain
from uadray.training.collapse import CollapsedError
from uadray.training.config import TrainConfig
from uadray.training.dataset import TrainingTiles, check_labels, described_by_label, normal_rows, training_tiles
from uadray.training.held import OF_SLIDES
from uadray.training.loop import IMAGES, Line, Listener
from uadray.training.subject import borrowed_weights
from uadray.training.survey import in_threads
from uadray.training.validation import Validator

if TYPE_CHECKING:  # `--without-ray` runs where Ray is not installed
    from uadray.cluster.nodes import Nodes

CONFIG = "config.yaml"

AnyBundle = Bundle | GeneratorBundle | ClassifierBundle


class Part(Protocol):
    """What is trained on, of one label; see `uadray.training.dataset.TrainingTiles`."""

    @property
    def tiles(self) -> TileSpec:
        """How slides are cut and prepared."""
        ...

    @property
    def description(self) -> dict[str, Any]:
        """Fingerprint and counts, for the bundle."""
        ...

    @property
    def n_tiles(self) -> int:
        """Tiles in one pass."""
        ...


PartT = TypeVar("PartT", bound=Part)

COLLAPSED = "collapsed.txt"
"""In a run's folder: how its generator collapsed. With `--resume` the run says it again."""

MAY_CHANGE = {"stop_on_collapse"}
"""Fields that a run which goes on may have otherwise than it began: they change nothing that is learned."""

Trained = tuple[Networks, Line, TileSpec, dict[str, Any]]
"""The networks, the last line of metrics, how tiles were cut, and what was trained on."""


def run(
    config: TrainConfig, *, data: str, out: str, resume: bool, without_ray: bool, job: str | None = None
) -> dict[str, Any]:
    """Train, on the cluster or in this process, with a progress bar.

    Args:
        config: the run.
        data: see `train`.
        out: see `train`.
        resume: see `train`.
        without_ray: see `train`.
        job: of a training that stands beside others, its `Job` as JSON: how far it is goes to standard output.

    Returns:
        Where the bundle is, its id, the last metrics, and counts of what it was trained on.
    """
    beside = Job.model_validate_json(job) if job is not None else None
    if beside is not None:
        end_with_parent()
    check(config, data=data, out=out, resume=resume, without_ray=without_ray)
    with _progress(config, beside) as show:
        bundle = train(
            config, data=data, out=out, resume=resume, without_ray=without_ray,
            nodes=None if without_ray else _nodes(out, beside), progress=show,
        )  # fmt: skip
    counts = {name: value for name, value in bundle.training_data.items() if name not in ("slides", "salt", "members")}
    return {"bundle": out, "id": bundle.id, "metrics": bundle.metrics, "data": counts}


@contextmanager
def _progress(config: TrainConfig, beside: Job | None) -> Iterator[Progress]:
    if beside is not None:
        console.divert()
        yield Teller().tell
        return
    with progress(f"train {config.name}") as tick:
        yield lambda done, total, line: tick(done, total, progress_text(line))


def _nodes(out: str, beside: Job | None) -> "Nodes":
    from uadray.commands.cluster import join_cluster

    if beside is None:
        return join_cluster(out_uri=out)
    return join_cluster(out_uri=out, share=beside.share, begun_at=beside.begun_at)


def train(
    config: TrainConfig, *, data: str, out: str, resume: bool = False, progress: Progress | None = None,
    nodes: "Nodes | None" = None, without_ray: bool = False,
) -> AnyBundle:  # fmt: skip
    """Train a detector, a generator or a classifier and write it as a bundle.

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
        CollapsedError: the generator has collapsed; so does a run that would go on from there.
    """
    config = given.completed(config)
    config = _as_begun(config, out) if resume else config
    _check_free(out, config, resume=resume, without_ray=without_ray)
    if config.classifier is not None:
        check_labels(data, config.labels, config.train_split)
    elif not containers.is_tile_set(data):
        given.check_held_out(config, normal_rows(data, config.train_label, config.train_split))
    for name in borrowed_weights(config):
        weights.ensure(name)
    log = RunLog(out, config, progress, keep=resume)
    try:
        if without_ray:
            trained = _trained_here(config, data, out, log.take)
        else:
            trained = _trained_on_ray(config, data, out, log.take, nodes)
    except CollapsedError as error:
        objects.write_bytes(objects.join(out, COLLAPSED), str(error).encode())
        raise
    bundle = _write(config, out, *trained)
    if config.generator is not None:
        log.draw(config.generator, trained[0])
    log.write_page()
    return bundle


def _trained_here(config: TrainConfig, data: str, out: str, listener: Listener) -> Trained:
    def read(part: TrainConfig, **given_before: Any) -> TrainingTiles:
        return training_tiles(
            data, input_px=part.input_px, tiles_per_slide=part.tiles_per_slide, seed=part.seed,
            survey_each=in_threads, split=part.train_split, **given_before,
        )  # fmt: skip

    parts = _by_label(config, read)
    tiles, description = _begin(config, data, out, parts)
    sources = tuple(part.source for part in parts)
    networks, last = plain.train_plain(
        config, sources if config.classifier is not None else sources[0], out=out, listener=listener,
        validator=_validator(config, data),
    )  # fmt: skip
    return networks, last, tiles, description


def _trained_on_ray(config: TrainConfig, data: str, out: str, listener: Listener, nodes: "Nodes | None") -> Trained:
    from uadray.training.ray_dataset import TrainingData, training_data
    from uadray.training.worker_group import fit

    def read(part: TrainConfig, **given_before: Any) -> TrainingData:
        return training_data(
            data, input_px=part.input_px, tiles_per_slide=part.tiles_per_slide, seed=part.seed,
            stain_augment=part.stain_augment, nodes=nodes, split=part.train_split, **given_before,
        )  # fmt: skip

    parts = _by_label(config, read)
    tiles, description = _begin(config, data, out, parts)
    filesystem, path = objects.pyarrow_filesystem(out)
    networks, last = fit(
        config, parts, filesystem=filesystem, path=path, listener=listener, nodes=nodes,
        validator=_validator(config, data),
    )  # fmt: skip
    return networks, last, tiles, description


def _validator(config: TrainConfig, data: str) -> Validator | None:
    """What judges the checkpoints of a generator, where its configuration asks for it."""
    return validator_for(config, data) if config.validate_every else None


def _by_label(config: TrainConfig, read: Callable[..., PartT]) -> list[PartT]:
    """The tiles of each label. What the first fits to its slides, a stain reference, is taken for all."""
    parts: list[PartT] = []
    tiles, seen = config.trained_tiles, given.seen_before(config)
    for number, label in enumerate(config.labels):
        part = read(config.of_label(number), label=label, tiles=tiles, seen_before=seen)
        parts.append(part)
        tiles, seen = part.tiles, seen_of(part.description)
    return parts


def _begin(config: TrainConfig, data: str, out: str, parts: Sequence[Part]) -> tuple[TileSpec, dict[str, Any]]:
    """Refuse what cannot be trained on; then the folder is this run's. How tiles are cut, and what they are."""
    descriptions = [part.description for part in parts]
    description = descriptions[0] if config.classifier is None else described_by_label(config.labels, descriptions)
    given.check_other_tiles(config, description)
    for number, part in enumerate(parts):
        batch = config.of_label(number).batch_size
        if part.n_tiles < batch * config.workers:
            raise InputError(f"{data}: {part.n_tiles} tiles are fewer than a batch of {batch} a worker")
    objects.write_bytes(objects.join(out, CONFIG), provenance.dump_config(config).encode())
    return parts[0].tiles, description


def _write(
    config: TrainConfig, out: str, networks: Networks, last: Line, tiles: TileSpec, description: dict[str, Any]
) -> AnyBundle:
    common = {
        "name": config.name, "tiles": tiles.model_copy(update={"min_tissue": config.tiles.min_tissue}),
        "training_data": description | given.parts_of(config) | {"crops": config.tiles_taken(0) + int(last[IMAGES])},
        "metrics": {k: v for k, v in last.items() if isinstance(v, int | float)},
        "commit": provenance.commit(), "licences": given.licences(config),
    }  # fmt: skip
    if config.detector is not None:
        return write_bundle(out, networks, detector=config.detector, **common)
    if config.classifier is not None:
        return write_classifier(out, networks, classifier=config.classifier, **common)
    return write_generator(out, networks, generator=config.generator, **common)


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
    if config.classifier is not None:
        check_labels(data, config.labels, config.train_split)
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
    changed = sorted(k for k in values.keys() | now.keys() if values.get(k) != now.get(k) and k not in MAY_CHANGE)
    if changed:
        raise InputError(
            f"{out} was started with another configuration ({', '.join(changed)} differ); use another --out"
        )
    collapsed_uri = objects.join(out, COLLAPSED)
    if config.stop_on_collapse and objects.exists(collapsed_uri):
        raise CollapsedError(objects.read_bytes(collapsed_uri).decode())
    if without_ray and plain.is_rays(out):
        raise InputError(f"{out} was trained on Ray; go on without --without-ray, or use another --out")
    if not without_ray and plain.epochs_kept(out):
        raise InputError(f"{out} was trained without Ray; go on with --without-ray, or use another --out")
