"""What the HTTP side is given by the rest of the endpoint. It knows nothing of Ray: tests give it plain parts."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from uadray.serving.access.callers import Access
from uadray.serving.config import ServeConfig
from uadray.serving.jobs.queue import Jobs
from uadray.serving.registry import RegisteredBundle, Registry
from uadray.serving.scores import Scores, Wanted
from uadray.serving.views.slide_views import Views
from uadray.tiles.images import Pixels

Score = Callable[[RegisteredBundle, Pixels, Wanted], Awaitable[Scores]]
"""RGB tiles [N, tile, tile, 3] -> what the stages say of them; `RefusedError` 429 or 503, with Retry-After."""

Ready = Callable[[], Awaitable[bool]]
"""Whether every stage has loaded the bundles."""


@dataclass(frozen=True)
class Services:
    """The parts behind the routes.

    Attributes:
        config: limits.
        access: who may do what.
        registry: the bundles by name; blocks.
        jobs: slides to screen; blocks.
        score: scores tiles.
        views: opens slides for people.
        ready: whether requests can be answered.
    """

    config: ServeConfig
    access: Access
    registry: Registry
    jobs: Jobs
    score: Score
    views: Views
    ready: Ready
