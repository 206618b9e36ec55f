"""The deployment that works on slide jobs: each replica runs one worker in a thread, one slide at a time.

It takes no requests. Jobs come from the queue in the object store; how many replicas there are, `scaling` decides.
"""

import asyncio
import threading
from functools import partial
from typing import final

from ray.serve.handle import DeploymentHandle

from uadray.errors import UadrayError
from uadray.serving.config import ServeConfig
from uadray.serving.jobs import Jobs
from uadray.serving.replica_logs import log_to_output
from uadray.serving.scaling import SLIDES
from uadray.serving.slide_work import SlideWorker
from uadray.serving.through_stages import ThroughStages

DRAIN_S = 600.0
"""A replica that is to end finishes the slide that it is at, for so long at most; then it gives the slide back."""

GIVE_BACK_S = 20.0


@final
class SlideStage:
    """One replica: a worker, its thread, and what stops it."""

    def __init__(self, config: ServeConfig, *stages: DeploymentHandle) -> None:
        log_to_output()
        self._jobs = Jobs(config.out)
        score = partial(ThroughStages(config, stages).score_now, loop=asyncio.get_running_loop())
        self._worker = SlideWorker(self._jobs, score)
        self._drain, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="uadray-slides", daemon=True)
        self._thread.start()
        self._slides = 0

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """How many slide jobs wait or are at work, for `scaling`."""
        self._slides = await asyncio.to_thread(known_slides, self._jobs, self._slides)
        return {SLIDES: float(self._slides)}

    def check_health(self) -> None:
        """Raise where the worker has ended: Serve replaces the replica then."""
        if not self._thread.is_alive():
            raise RuntimeError("the worker of slide jobs has ended")

    async def at_work(self) -> bool:
        """Whether a slide is being worked on."""
        return self._worker.at_work

    async def __del__(self) -> None:
        """Serve calls this before it ends the replica: the slide at work is finished, if that is not too long."""
        self._drain.set()
        await asyncio.to_thread(self._thread.join, DRAIN_S)
        self._stop.set()
        await asyncio.to_thread(self._thread.join, GIVE_BACK_S)

    def _work(self) -> None:
        self._worker.run(self._stop, drain=self._drain)


def known_slides(jobs: Jobs, before: int) -> int:
    """Slide jobs that wait or are at work; as many as before where the store does not answer."""
    try:
        return jobs.waiting()
    except UadrayError:
        return before
