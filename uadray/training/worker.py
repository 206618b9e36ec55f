"""Training on Ray: the worker (config, state, restore, loop) and `fit`, which runs a group of them."""

import itertools
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.data.collate_fn import ArrowBatchCollateFn
from torch import Tensor

from uadray import metrics
from uadray.cluster.nodes import Nodes, on_this_node
from uadray.detectors.catalog import build_networks, build_trainee
from uadray.detectors.pixels import Pixels, to_input, to_pixels
from uadray.detectors.trainee import Trainee, alone
from uadray.errors import WorkError, shown, shown_text
from uadray.networks.outline import Networks
from uadray.networks.weights_file import load_networks
from uadray.training.checkpoint import load_samples, load_state, save_samples, save_state
from uadray.training.config import TrainConfig
from uadray.training.crops import crop_pixels
from uadray.training.dataset import TrainingData
from uadray.training.plain import (
    DivergedError,
    Line,
    any_of_group,
    average_over_group,
    prepare,
    reconstructed,
    run_epoch,
    threads_of,
)

log = logging.getLogger(__name__)

MAX_RESTARTS = 2
"""Groups of workers that are started again from the last checkpoint, after one that failed."""

RUN = "checkpoints"
"""Name of Ray Train's run: the folder of the checkpoints."""

Sample = tuple[int, Pixels, Pixels | None]
"""Epoch, tiles [N, h, w, 3], their reconstructions or None."""

Listener = Callable[[list[Line], list[Sample]], None]

_TorchBackend = ray.train.torch.TorchConfig().backend_cls


@ray.remote(num_cpus=0)
class Board:
    """Where workers post what the driver shows. Lives as long as the driver, on its node."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._samples: list[Sample] = []
        self._losses: list[str] = []
        self._places: dict[int, str] = {}
        self._diverged = ""

    def post(self, line: Line, sample: tuple[Pixels, Pixels | None] | None = None) -> None:
        """Add a line of metrics and, at an epoch's end, tiles and their reconstructions."""
        self._lines.append(line)
        if sample is not None:
            self._samples.append((int(line["epoch"]), *sample))

    def sits(self, rank: int, address: str) -> None:
        """A worker says where it is."""
        self._places[rank] = address

    def lose(self, errors: dict[int, str], restart: int, epochs_done: int) -> None:
        """A group of workers has failed: why, by rank ("" for a process that is gone)."""
        self._losses.append(loss_line(errors, self._places, restart=restart, epochs_done=epochs_done))

    def diverge(self, message: str) -> None:
        """The training has diverged."""
        self._diverged = self._diverged or message

    def take(self) -> tuple[list[Line], list[Sample], list[str], str]:
        """Lines, samples and losses that came since the last call; and how the training diverged, if it did."""
        found = self._lines, self._samples, self._losses, self._diverged
        self._lines, self._samples, self._losses = [], [], []
        return found


def loss_line(errors: dict[int, str], places: dict[int, str], *, restart: int, epochs_done: int) -> str:
    """What happened to a group of workers, and what comes now. Of a process that is gone the others' errors follow.

    >>> loss_line({0: "connection reset", 1: ""}, {1: "10.0.0.3"}, restart=1, epochs_done=4)
    'training: worker 1 on 10.0.0.3 was lost (its process or node died); restart 1 of 2, after epoch 3'
    >>> loss_line({0: "no more disk"}, {}, restart=3, epochs_done=0)
    'training: worker 0 failed (no more disk); no more restarts'
    """
    gone = {rank for rank, error in errors.items() if not error}
    rank = min(gone or errors)
    where = f" on {places[rank]}" if rank in places else ""
    what = "was lost (its process or node died)" if gone else f"failed ({errors[rank]})"
    begin = f"after epoch {epochs_done - 1}" if epochs_done else "from the beginning"
    then = f"restart {restart} of {MAX_RESTARTS}, {begin}" if restart <= MAX_RESTARTS else "no more restarts"
    return f"training: worker {rank}{where} {what}; {then}"


class Losses(ray.train.UserCallback):  # type: ignore[misc]  # Ray is untyped
    """Tells the board of groups that failed; lives in Ray Train's controller."""

    def __init__(self, board: Any, epochs_done: int) -> None:
        self._board, self._epochs_done, self._restarts = board, epochs_done, 0

    def after_report(self, run_context: Any, metrics: list[Line], checkpoint: Any) -> None:
        """A checkpoint is kept."""
        self._epochs_done = int(metrics[0]["epoch"]) + 1

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """A group has failed."""
        self._restarts += 1
        errors = {rank: "" if _is_gone(error) else sentence(error) for rank, error in worker_exceptions.items()}
        self._board.lose.remote(errors, self._restarts, self._epochs_done)


def _is_gone(error: Exception) -> bool:
    """Whether a worker's process ended without a word, alone or with its node."""
    cause = getattr(error, "health_check_failure", error)
    return isinstance(cause, ray.exceptions.RayActorError)


def sentence(error: BaseException) -> str:
    r"""What an error says to people: of a traceback in it, the last error that is uadray's own; else its last line.

    >>> sentence(RuntimeError("a task failed\nuadray.errors.AccessError: s3://a/b: refused\n  in line 7"))
    's3://a/b: refused'
    """
    lines = str(error).strip().splitlines() or [repr(error)]
    own = [found[1] for line in lines if (found := re.match(r"uadray\.[\w.]+: (.+)", line.strip()))]
    return (own or lines)[-1].strip()[:500]


def train_worker(settings: dict[str, Any]) -> None:
    """What each Ray Train worker runs; `settings` holds the configuration as a dict, and the board."""
    config = TrainConfig.model_validate(settings["config"])
    board = settings["board"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    board.sits.remote(rank, ray.util.get_node_ip_address())
    torch.set_num_threads(threads_of(config.threads, _node_cpus(), context.get_local_world_size()))
    torch.manual_seed(config.seed)
    device = ray.train.torch.get_device() if config.use_gpu else torch.device("cpu")
    networks = build_networks(config.detector)
    for network in networks.values():
        network.to(device).to(memory_format=torch.channels_last)
    trainee = build_trainee(config.detector, networks, average=average_over_group if world > 1 else alone)
    shard = ray.train.get_dataset_shard("train")
    stream = batches(shard, config, device, seed=config.seed * 1000 + rank)
    lines, samples = _start(config, trainee, stream, world, device)
    for line in lines if rank == 0 else ():  # the driver may have been killed before it wrote them
        ray.get(board.post.remote(line | {"end_of_epoch": True}))
    any_of = partial(any_of_group, device=device) if world > 1 else bool
    for epoch in range(len(lines), config.epochs):
        try:
            with metrics.stage("train_step") as meter:
                each = partial(_after_step, meter, board if rank == 0 else None, epoch)
                line = run_epoch(config, trainee, stream, epoch, rank=rank, any_of=any_of, each=each)
        except DivergedError as error:
            ray.get(board.diverge.remote(str(error)))
            return  # in all workers: a failure would be tried again
        lines.append(line)
        _report(config, trainee, lines, samples, board, rank=rank)


def _after_step(meter: metrics.Meter, board: Any, epoch: int, n_tiles: int, step: int) -> None:
    meter.add(tiles=n_tiles)
    if board is not None:
        board.post.remote({"epoch": epoch, "step": step})


class Collate(ArrowBatchCollateFn):  # type: ignore[misc]  # Ray is untyped
    """Rows of crops -> X [N, 3, side, side] in [-1, 1], channels last, in the threads that fetch ahead."""

    def __init__(self, side: int) -> None:
        self._side = side

    def __call__(self, table: pa.Table) -> Tensor:
        """Called by Ray, in several threads."""
        pixels = torch.from_numpy(crop_pixels(table, self._side))
        return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def batches(shard: Any, config: TrainConfig, device: torch.device, *, seed: int) -> Iterator[Tensor]:
    """X [batch, 3, input, input] in [-1, 1] without end.

    The dataset streams all passes of the training in one execution, so that the next pass is read while this one is
    used. Only where it was too short (tiles that could not be read, or had too little tissue) it is begun again.
    """
    for turn in itertools.count():
        rows = 0
        for x in shard.iter_torch_batches(
            batch_size=config.batch_size,
            collate_fn=Collate(config.detector.input_px),
            device=str(device),
            drop_last=True,
            prefetch_batches=4,
            local_shuffle_buffer_size=config.shuffle_tiles,
            local_shuffle_seed=seed + turn,
        ):
            rows += len(x)
            yield x
        if not rows:
            raise WorkError(
                f"a worker's share holds fewer tiles than one batch of {config.batch_size}; lower batch_size"
            )


def _start(
    config: TrainConfig, trainee: Trainee, stream: Iterator[Tensor], world: int, device: torch.device
) -> tuple[list[Line], Tensor]:
    """Restore the last checkpoint, or prepare; every worker begins with rank 0's networks.

    Returns:
        The metrics of the epochs that are done, and the tiles to show.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            progress = load_state(Path(folder), trainee.networks, trainee.optimizers)
            trainee.counts.update(progress["counts"])
            samples = to_input(load_samples(Path(folder)), config.detector.input_px).to(device)
            return list(progress["lines"]), samples
    samples = prepare(trainee, stream)
    if world > 1:
        for network in trainee.networks.values():
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, src=0)
    return [], samples


def _report(
    config: TrainConfig, trainee: Trainee, lines: list[Line], samples: Tensor, board: Any, *, rank: int
) -> None:
    """Checkpoint and sample picture from rank 0; every worker reports its last line."""
    line = lines[-1]
    if rank:
        ray.train.report(line)
        return
    ray.get(board.post.remote(line | {"end_of_epoch": True}, reconstructed(trainee, samples)))
    with tempfile.TemporaryDirectory() as folder:
        done = len(lines)
        progress = {"epochs_done": done, "epochs": config.epochs, "counts": trainee.counts, "lines": lines}
        progress |= {"tiles_taken": config.tiles_taken(done)}
        save_state(Path(folder), trainee.networks, trainee.optimizers, progress)
        save_samples(Path(folder), to_pixels(samples))
        ray.train.report(line, checkpoint=ray.train.Checkpoint.from_directory(folder))


def fit(
    config: TrainConfig, data: TrainingData, *, filesystem: Any, path: str, listener: Listener,
    nodes: Nodes | None = None,
) -> tuple[Networks, Line]:  # fmt: skip
    """Run the worker group to the end, going on from the last checkpoint under `path` if there is one.

    A group that fails is started again from the last checkpoint, `MAX_RESTARTS` times; that is logged, as are slides
    that give no tiles.

    Args:
        config: the run.
        data: what is trained on.
        filesystem: pyarrow filesystem of `path`.
        path: folder for Ray Train's checkpoints.
        listener: told about once a second of the metrics and samples that came.
        nodes: that are used.

    Returns:
        The trained networks on the CPU, and the last epoch's metrics.

    Raises:
        WorkError: the workers failed for good, or the training diverged.
    """
    used = nodes or Nodes()
    board = Board.options(scheduling_strategy=on_this_node()).remote()  # type: ignore[attr-defined]
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"config": config.model_dump(mode="json"), "board": board},
        torch_config=OwnInterface(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": worker_cpus(config.workers, used.cores())}
            | ({"GPU": 1} if config.use_gpu else {}),
            label_selector=used.selector(),
        ),
        run_config=ray.train.RunConfig(
            name=RUN,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=[Losses(board, epochs_done(filesystem, path))],
        ),
        # called for every group of workers, so that each begins with the tiles that its checkpoint has not seen
        datasets={"train": partial(_dataset, data, config, filesystem, path)},
    )
    result = _watched(trainer.fit, partial(_look, board, data.journal, listener))
    if result.checkpoint is None:
        raise WorkError(f"{path}: the training ended without a checkpoint")
    networks = build_networks(config.detector, pretrained=False)
    with result.checkpoint.as_directory() as folder:
        load_networks(Path(folder) / "networks.safetensors", networks)
    return networks, result.metrics or {}


def _look(board: Any, journal: Any, listener: Listener) -> None:
    (lines, samples, losses, diverged), unread = ray.get([board.take.remote(), journal.take.remote()])
    for loss in losses:
        log.warning("%s", loss)
    for name, why in unread:
        log.warning("%s gives no more tiles to this training: %s", shown(name), shown_text(why))
    listener(lines, samples)
    if diverged:
        raise DivergedError(diverged)


def epochs_done(filesystem: Any, path: str) -> int:
    """Epochs of the last checkpoint under `path`; 0 where there is none."""
    try:
        found = ray.train.Result.from_path(f"{path}/{RUN}", storage_filesystem=filesystem)
    except RuntimeError:  # no run, or none that has come to a checkpoint
        return 0
    return int(found.metrics["epoch"]) + 1 if found.metrics else 0


def _dataset(data: TrainingData, config: TrainConfig, filesystem: Any, path: str) -> Any:
    done = epochs_done(filesystem, path)
    return data.dataset_after(config.tiles_taken(done) if done else 0)


class OwnInterface(ray.train.torch.TorchConfig):  # type: ignore[misc]  # Ray is untyped
    """Has workers talk to each other by the interface that Ray knows their nodes by."""

    @property
    def backend_cls(self) -> type:
        """What sets up the process group."""
        return OwnInterfaceBackend


class OwnInterfaceBackend(_TorchBackend):  # type: ignore[misc, valid-type]
    """Gloo takes the address that a host's own name resolves to, which on Debian is 127.0.1.1."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Set up the process group."""
        worker_group.execute(use_own_interface)
        super().on_start(worker_group, backend_config)


def use_own_interface() -> None:
    """In a worker, before its process group starts: tell Gloo the interface. What is set already stays."""
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this address; None where none has (behind a translated address)."""
    import psutil  # type: ignore[import-untyped]  # Ray's own

    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return str(name)
    return None


def worker_cpus(workers: int, n_cpus: int) -> float:
    """CPUs that each worker asks Ray for: one, or less where the readers would be left without any and wait for ever.

    >>> worker_cpus(1, 2), worker_cpus(2, 2), worker_cpus(4, 16)
    (1.0, 0.5, 1.0)
    """
    return min(1.0, (n_cpus - 1) / workers)


def _watched(run: Callable[[], Any], look: Callable[[], None]) -> Any:
    """Call `run` in a thread and `look` about once a second until it ends."""
    outcome: dict[str, Any] = {}

    def target() -> None:
        try:
            outcome["result"] = run()
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=target, name="train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=1.0)
        look()
    look()
    if "error" in outcome:
        raise WorkError(
            f"training failed: {_cause(outcome['error'])}; the same command with --resume goes on from the last epoch"
        ) from outcome["error"]
    return outcome["result"]


def _cause(error: Exception) -> str:
    """In a line, of a group's errors that of a worker that can say something."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    said = [sentence(failure) for _, failure in sorted(failures.items()) if not _is_gone(failure)]
    if failures and not said:
        return f"worker {min(failures)} was lost (its process or node died), after {MAX_RESTARTS} restarts"
    return said[0] if said else sentence(error)


def _node_cpus() -> float:
    """CPUs of this process's node."""
    here = ray.get_runtime_context().get_node_id()
    return max(float(node["Resources"].get("CPU", 1)) for node in ray.nodes() if node["NodeID"] == here)
