"""How the CPUs and GPUs of a cluster are shared between reading and scoring."""

from typing import Literal

from pydantic import Field

from uadray.config import Config
from uadray.errors import InputError

READ_CPUS = 0.9
"""CPUs of a read task: with a scorer's a whole one."""

SCORE_CPUS = 0.1
"""CPUs that a scoring actor reserves as long as it lives, whatever it uses. If it reserved a whole one, actors could
reserve all CPUs of a cluster that has lost nodes or that two drivers share, and readers would wait for ever; and
beside actors that wait for a GPU only half of the cluster would read."""


class StreamConfig(Config):
    """How the cluster is shared between reading and scoring.

    Attributes:
        score_workers: actors; None takes one for two of the cluster's CPUs.
        gpus: GPUs of each actor.
        threads: of an actor, each scoring other tiles; None shares the cluster's cores among the actors. Readers wait
            for storage much of the time, so the scorers may use all cores.
        batch_tiles: in one forward pass; None takes 64 on a CPU, 128 on a GPU, and fewer beyond inputs of 256 px.
        precision: of the stage `score`; see `uadray.detectors.precision`. Nodes that cannot keep float32.
        no_progress_timeout_s: the job ends when nothing has moved for this long: no part has come, and no reader or
            scorer has computed, copied or written anything. A search that takes longer for a part moves all the time.
    """

    score_workers: int | None = Field(default=None, ge=1)
    gpus: float = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    batch_tiles: int | None = Field(default=None, ge=1, le=4096)
    precision: Literal["float32", "bfloat16"] = "float32"
    no_progress_timeout_s: int = Field(default=900, ge=1)


def plan_workers(config: StreamConfig, n_cpus: int, *, n_nodes: int = 1, n_gpus: float = 0) -> tuple[int, int]:
    """The number of scoring actors, and of torch threads of each.

    There are as many actors as fit on the GPUs; without GPUs one for two CPUs, and at least one for each node if there
    are CPUs enough: a node that is cut off then takes only its share of the actors with it.

    >>> plan_workers(StreamConfig(), 2), plan_workers(StreamConfig(), 16), plan_workers(StreamConfig(), 3, n_nodes=3)
    ((1, 2), (8, 2), (2, 1))
    >>> plan_workers(StreamConfig(gpus=1), 64, n_gpus=4)
    (4, 16)

    Raises:
        InputError: there are too few GPUs, or the actors would leave no CPU for reading and wait for ever.
    """
    max_workers = max(1, int((n_cpus - READ_CPUS) / SCORE_CPUS + 1e-9))
    if config.gpus:
        fitting = int(n_gpus / config.gpus + 1e-9)
        if fitting < (config.score_workers or 1):
            raise InputError(
                f"{config.score_workers or 1} scoring actors with {config.gpus:g} GPUs each need more than the "
                f"{n_gpus:g} GPUs of this cluster; leave --gpus out to score on CPUs"
            )
        workers = config.score_workers or min(fitting, max_workers)
    else:
        workers = config.score_workers or max(1, n_cpus // 2, min(n_nodes, n_cpus - 1))
    if workers * SCORE_CPUS + READ_CPUS > n_cpus + 1e-9 or n_cpus < 2:
        raise InputError(
            f"score_workers {workers} on {n_cpus} CPUs leaves none for reading slides; use at most {max_workers}"
            f"{', and start Ray with at least 2 CPUs' if n_cpus < 2 else ''}"
        )
    return workers, config.threads or max(1, n_cpus // workers)
