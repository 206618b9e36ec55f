"""The deployment that opens slides for the page, and `Views` that asks it.

Requests about a slide go to the replica that has it open: Serve sends a request where its multiplexed model id is
loaded. That id is one of a few groups of slides, since Serve makes a label of a metric of it.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, final

from ray import serve
from ray.serve.handle import DeploymentHandle

from uadray.serving.stages.replica_calls import answered
from uadray.serving.stages.replica_logs import log_to_output
from uadray.serving.views.heat_tiles import HeatScale
from uadray.serving.views.open_slides import SlideRef
from uadray.serving.views.slide_views import SlideViews, TileAt, TilesRef
from uadray.tiles.spec import TileSpec

GROUPS = 64
"""Of slides: those of a group are opened by the same replica."""


@final
class ViewStage:
    """One replica: `SlideViews` and its methods."""

    def __init__(self) -> None:
        log_to_output()
        self._views = SlideViews()
        self.group = serve.multiplexed(max_num_models_per_replica=GROUPS)(_group_is_here)

    async def view(self, method: str, *arguments: Any) -> Any:
        """The answer of a method of `SlideViews`."""
        await self.group(serve.get_multiplexed_model_id())
        return await getattr(self._views, method)(*arguments)


async def _group_is_here(group: str) -> str:
    """What Serve calls when a group of slides comes to a replica: from then on it sends that group there."""
    return group


@final
class ReplicaViews:
    """`Views` by the replicas of `ViewStage`. Raises `RefusedError`, 429 or 503, too."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def image(self, of: SlideRef, level: int, x: int, y: int) -> bytes:
        """See `Views`."""
        data: bytes = await self._asked("image", of, level, x, y)
        return data

    async def heat(self, of: TilesRef, scale: HeatScale | None, level: int, x: int, y: int) -> bytes:
        """See `Views`."""
        data: bytes = await self._asked("heat", of, scale, level, x, y)
        return data

    async def scores(self, of: TilesRef) -> dict[str, list[Any]]:
        """See `Views`."""
        columns: dict[str, list[Any]] = await self._asked("scores", of)
        return columns

    async def at(
        self, of: SlideRef, tables: Sequence[TilesRef], spec: TileSpec | None, x: int, y: int
    ) -> list[TileAt | None]:
        """See `Views`."""
        found: list[TileAt | None] = await self._asked("at", of, list(tables), spec, x, y)
        return found

    async def _asked(self, method: str, of: SlideRef | TilesRef, *arguments: Any) -> Any:
        view = self._handle.options(method_name="view", multiplexed_model_id=group_of(of.key))
        return await answered(lambda: [view.remote(method, of, *arguments)], by="the viewer")


def group_of(key: str) -> str:
    """The group of a slide.

    >>> group_of("s3://b/a.svs#1") == group_of("s3://b/a.svs#1"), len({group_of(str(n)) for n in range(9999)})
    (True, 64)
    """
    return f"slides-{int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % GROUPS}"
