"""What there is of an endpoint as a whole: its bundles, its cores, the jobs in its queue. One of its replicas tells."""

import logging
import threading

from ray import serve

from uadray import __version__, metrics
from uadray.errors import UadrayError
from uadray.serving.config import ServeConfig
from uadray.serving.jobs.queue import Jobs
from uadray.serving.registry import RegisteredBundle, Registry

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""How often it is looked which bundles there are and how many jobs wait: both may be changed by others."""

MOST_BUNDLES = 12
"""Bundles that are named: the default first, then in the order of their names."""


def tell_on_and_on(config: ServeConfig, registry: Registry, jobs: Jobs) -> None:
    """Tell every `LOOK_S` what there is, in a thread, while this replica is the first of its deployment.

    A store that does not answer takes what it would have said with it: what was told before is not known any more.
    """

    def run() -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_S):
            try:
                tell(config, registry, jobs, is_first=is_first_replica())
            except UadrayError as error:
                log.warning("what the endpoint has cannot be told: %s", type(error).__name__)
                forget()

    threading.Thread(target=run, name="uadray-gauges", daemon=True).start()


def tell(config: ServeConfig, registry: Registry, jobs: Jobs, *, is_first: bool) -> None:
    """Tell what there is now; nothing, where another replica does: the sum over all is then what there is.

    Jobs of the queue count as `to_read` until they are decided, those at work too.

    Raises:
        UadrayError: the store does not answer.
    """
    if not is_first:
        forget()
        return
    bundles = list(registry.all().values())[:MOST_BUNDLES]
    metrics.set_gauges(metrics.RUN_INFO, [(info_of(bundle), 1) for bundle in bundles])
    metrics.set_gauges(metrics.QUEUE, [({"queue": "to_read"}, jobs.waiting())])
    metrics.set_gauges(metrics.CORES, [({"kind": kind}, value) for kind, value in cores_of(config).items()])


def forget() -> None:
    """Tell nothing any more."""
    for name in (metrics.RUN_INFO, metrics.QUEUE, metrics.CORES):
        metrics.set_gauges(name, [])


def info_of(bundle: RegisteredBundle) -> dict[str, str]:
    """What of a bundle is told."""
    calibration = bundle.calibration.id if bundle.calibration is not None else ""
    return {
        "kind": "serve", "bundle": bundle.id, "detector": bundle.description.detector.kind,
        "calibration": calibration, "version": __version__,
    }  # fmt: skip


def cores_of(config: ServeConfig) -> dict[str, float]:
    """Cores and GPUs that all deployments together may take.

    >>> from uadray.serving.config import StageConfig
    >>> cores_of(ServeConfig(out="o", bundles={"a": "b"}, detector=StageConfig(replicas=1, max_replicas=3, cpus=2)))
    {'cpu': 6.0, 'gpu': 0.0}
    """
    deployments = [config.ingress, config.slide, config.view, *config.stages.values()]
    return {
        "cpu": float(sum(each.cpus * each.most for each in deployments)),
        "gpu": float(sum(each.gpus * each.most for each in deployments)),
    }


def is_first_replica() -> bool:
    """Whether this is the replica of its deployment that Serve ranks first; there is always one."""
    rank = serve.get_replica_context().rank
    return rank is not None and rank.rank == 0
