"""The deployment that works on slide jobs: each replica runs some workers in threads, of one slide each.

While one of its slides is read or committed another is scored. It takes no requests. Jobs come from the queue in the
object store; how many replicas there are, `scaling` decides.
"""

import asyncio
import threading
import time
from functools import partial
from typing import final

from ray.serve.handle import DeploymentHandle

from uadray import metrics
from uadray.errors import UadrayError
from uadray.serving.access.allowed_uris import check_slide
from uadray.serving.config import ServeConfig
from uadray.serving.jobs.queue import Jobs
from uadray.serving.jobs.queue_lengths import QueueLengths
from uadray.serving.jobs.slide_worker import SlideWorker
from uadray.serving.scaling import WANTED
from uadray.serving.stages.replica_logs import log_to_output
from uadray.serving.stages.through_stages import ThroughStages

DRAIN_S = 600.0
"""A replica that is to end finishes the slide that it is at, for so long at most; then it gives the slide back."""

GIVE_BACK_S = 20.0


@final
class SlideStage:
    """One replica: its workers, their threads, and what stops them."""

    def __init__(self, config: ServeConfig, run: str, *stages: DeploymentHandle) -> None:
        log_to_output()
        metrics.start_run(run, has_info=False)
        self._jobs = Jobs(config.out)
        score = partial(ThroughStages(config, stages).score_now, loop=asyncio.get_running_loop())
        check = partial(check_slide, allowed=config.slides)
        lengths = QueueLengths()
        self._workers = [
            SlideWorker(self._jobs, score, lengths=lengths, check=check) for _ in range(config.slides_per_replica)
        ]
        self._drain, self._stop = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=worker.run, args=(self._stop,), kwargs={"drain": self._drain}, daemon=True)
            for worker in self._workers
        ]
        for thread in self._threads:
            thread.start()
        self._per_replica, self._wanted = config.slides_per_replica, 0.0

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """How many replicas' slides wait or are at work, for `scaling`."""
        self._wanted = await asyncio.to_thread(replicas_for, self._jobs, self._per_replica, self._wanted)
        return {WANTED: self._wanted}

    def check_health(self) -> None:
        """Raise where a worker has ended: Serve replaces the replica then."""
        if not all(thread.is_alive() for thread in self._threads):
            raise RuntimeError("a worker of slide jobs has ended")

    async def at_work(self) -> bool:
        """Whether a slide is being worked on."""
        return any(worker.at_work for worker in self._workers)

    async def __del__(self) -> None:
        """Serve calls this before it ends the replica: slides at work are finished, if that is not too long."""
        self._drain.set()
        await asyncio.to_thread(self._join, DRAIN_S)
        self._stop.set()
        await asyncio.to_thread(self._join, GIVE_BACK_S)

    def _join(self, seconds: float) -> None:
        """Wait until all workers have ended, for so many seconds at most."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


def replicas_for(jobs: Jobs, per_replica: int, before: float) -> float:
    """Replicas that the slide jobs need which wait or are at work; as before where the store does not answer."""
    try:
        return float(-(-jobs.waiting() // per_replica))
    except UadrayError:
        return before
