"""Training without Ray: one process, on its CPUs or its GPU, for a machine that is no cluster.

The trainee, the loop, the sources and the files of a checkpoint are those of `uadray.training.worker`. Checkpoints lie
under `checkpoints/epoch_<number>/`, the last two of them; a folder without `progress.json`, which is written last, is
none.
"""

import logging
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from uadray.detectors.trainee import Trainee
from uadray.errors import InputError
from uadray.networks.outline import Networks
from uadray.storage import objects
from uadray.training.arithmetic import quick
from uadray.training.board import sentence
from uadray.training.captured import capture_steps
from uadray.training.checkpoint import (
    NETWORKS,
    OPTIMIZERS,
    PROGRESS,
    SAMPLES,
    load_checkpoint,
    load_progress,
    save_checkpoint,
)
from uadray.training.config import TrainConfig
from uadray.training.crops import Source
from uadray.training.group import threads_of
from uadray.training.held import HeldPlace, HeldTiles, hold
from uadray.training.joined import Joined
from uadray.training.loop import Line, Listener, Reached, Step, pictures_of, run_training
from uadray.training.parts import Place
from uadray.training.stream import TileStream, read_here
from uadray.training.subject import build_networks, build_trainee
from uadray.training.validation import Validator, failed, is_due, judged

log = logging.getLogger(__name__)

Stream = TileStream | HeldTiles | Joined

Sources = Source | tuple[Source, ...]
"""One, or one for each of the labels of the configuration."""

CHECKPOINTS = "checkpoints"
KEPT = 2
"""Checkpoints that are kept: the last one, and the one before it while the last is being written."""


class ThisProcess:
    """The host of a training that runs here, see `uadray.training.loop.Host`."""

    rank, world = 0, 1

    def __init__(
        self, config: TrainConfig, stream: Stream, *, out: str, listener: Listener, validator: Validator | None
    ) -> None:
        self._config, self._stream, self._out, self._listener = config, stream, out, listener
        self._validator = validator

    def any_of(self, flag: bool) -> bool:
        """There is no other worker."""
        return flag

    def agree(self, networks: Networks) -> None:
        """There is no other worker."""

    def at(self, line: Line, step: Step) -> None:
        """Tell of a step."""
        self._listener([dict(line)], [])

    def keep(self, trainee: Trainee, reached: Reached) -> None:
        """Write a checkpoint, tell of the epoch, then validate it: the training waits for that."""
        line = reached.lines[-1]
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(Path(folder), self._config, trainee, reached, asdict(self._stream.place))
            upload(Path(folder), checkpoint_uri(self._out, len(reached.lines)))
            for old in epochs_kept(self._out)[:-KEPT]:
                remove(checkpoint_uri(self._out, old))
            sample = (int(line["epoch"]), *pictures_of(trainee, reached.samples))
            self._listener([line | {"end_of_epoch": True}], [sample])
            if self._validator is not None and is_due(self._config, len(reached.lines)):
                self._validate(self._validator, Path(folder), int(line["epoch"]))

    def _validate(self, validator: Validator, folder: Path, epoch: int) -> None:
        """Tell of a checkpoint's figures. The training's random numbers stay as they were."""
        device = "cuda" if self._config.use_gpu else "cpu"
        try:
            with torch.random.fork_rng():
                self._listener([judged(self._config, validator, folder, device)], [])
        except Exception as error:
            log.warning("%s", failed(epoch, sentence(error)))


def train_plain(
    config: TrainConfig, source: Sources, *, out: str, listener: Listener, validator: Validator | None = None
) -> tuple[Networks, Line]:
    """Train in this process, going on from the last checkpoint under `out` if there is one.

    Args:
        config: the run; of its `workers` there is one.
        source: of the tiles, or one for each label.
        out: URI of the folder that gets the checkpoints.
        listener: told of every step, and of metrics and samples.
        validator: of checkpoints, as often as the configuration says.

    Returns:
        The trained networks on the CPU, and the last epoch's metrics.

    Raises:
        InputError: the configuration asks for what there is not: several workers, a GPU.
        WorkError: the training diverged, or nothing can be read.
    """
    check_here(config)
    device = torch.device("cuda" if config.use_gpu else "cpu")
    torch.set_num_threads(threads_of(config.threads, os.cpu_count() or 1, 1))
    torch.manual_seed(config.seed)
    networks = build_networks(config)
    for network in networks.values():
        network.to(device).to(memory_format=torch.channels_last)
    trainee = build_trainee(config, networks)
    reached, place = restored(config, trainee, out, device)
    if config.captured:
        capture_steps(trainee, device)
    if reached is not None:  # the process may have ended before it had told of them
        listener([line | {"end_of_epoch": True} for line in reached.lines], [])
    stream = stream_of(config, source, device, place)
    host = ThisProcess(config, stream, out=out, listener=listener, validator=validator)
    with quick(device):
        lines = run_training(config, trainee, stream, host, reached)
    return {name: network.cpu() for name, network in networks.items()}, lines[-1]


def stream_of(config: TrainConfig, source: Sources, device: torch.device, place: dict[str, Any] | None) -> Stream:
    """Batches from a place on that a checkpoint names; None begins."""
    if isinstance(source, tuple):
        places = place["places"] if place else [None] * len(source)
        parts = enumerate(zip(source, places, strict=True))
        return Joined([stream_of(config.of_label(number), one, device, at) for number, (one, at) in parts])
    if config.hold_tiles:
        return HeldTiles(hold(source, config, device=device), config, place=HeldPlace(**place) if place else None)
    return read_here(source, config, device=device, place=Place(**place) if place else None)


def check_here(config: TrainConfig) -> None:
    """Refuse what cannot be trained in one process of this machine.

    Raises:
        InputError: several workers, or a GPU where there is none.
    """
    if config.workers > 1:
        raise InputError(f"workers {config.workers}: without Ray there is one; set workers to 1 (--set workers=1)")
    if config.use_gpu and not torch.cuda.is_available():
        raise InputError("use_gpu is true, but torch sees no GPU here; set it to false (--set use_gpu=false)")


def restored(
    config: TrainConfig, trainee: Trainee, out: str, device: torch.device
) -> tuple[Reached | None, dict[str, Any] | None]:
    """What the last checkpoint had reached and its place, the trainee filled with it; (None, None) without one."""
    epochs = epochs_kept(out)
    if not epochs:
        return None, None
    with tempfile.TemporaryDirectory() as folder:
        download(checkpoint_uri(out, epochs[-1]), Path(folder))
        reached = load_checkpoint(Path(folder), config, trainee, device)
        return reached, dict(load_progress(Path(folder))["place"])


def checkpoint_uri(out: str, epochs_done: int) -> str:
    """The folder of the checkpoint after so many epochs."""
    return objects.join(out, CHECKPOINTS, f"epoch_{epochs_done:04d}")


def epochs_kept(out: str) -> list[int]:
    """After how many epochs there are whole checkpoints, ascending."""
    checkpoints = objects.list_objects(objects.join(out, CHECKPOINTS), suffixes=(PROGRESS,))
    folders = [info.uri.rsplit("/", 2)[-2] for info in checkpoints]
    return sorted(int(name.removeprefix("epoch_")) for name in folders if name.startswith("epoch_"))


def upload(folder: Path, uri: str) -> None:
    """Write a checkpoint's files, `progress.json` last."""
    for name in (NETWORKS, OPTIMIZERS, SAMPLES, PROGRESS):
        objects.write_bytes(objects.join(uri, name), (folder / name).read_bytes())


def download(uri: str, folder: Path) -> None:
    """Fetch a checkpoint's files."""
    for name in (NETWORKS, OPTIMIZERS, SAMPLES, PROGRESS):
        (folder / name).write_bytes(objects.read_bytes(objects.join(uri, name)))


def remove(uri: str) -> None:
    """Delete a checkpoint, `progress.json` first."""
    for name in (PROGRESS, SAMPLES, OPTIMIZERS, NETWORKS):
        objects.delete(objects.join(uri, name))


def is_rays(out: str) -> bool:
    """Whether a training on Ray has checkpoints under `out`."""
    checkpoints = objects.list_objects(objects.join(out, CHECKPOINTS), suffixes=(PROGRESS,))
    return any(info.uri.rsplit("/", 2)[-2].startswith("checkpoint_") for info in checkpoints)
