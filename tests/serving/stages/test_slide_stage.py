"""A replica of slide jobs, without a cluster: what it tells, and how it ends."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from uadray.errors import UnreachableError
from uadray.serving.config import ServeConfig
from uadray.serving.scaling import WANTED
from uadray.serving.stages.slide_stage import SlideStage, replicas_for

NO_STAGE: Any = (object(),)
"""Nothing is scored here."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python calls __del__ once more
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_it_tells_how_many_wait_and_ends_when_it_is_told(tmp_path: Path) -> None:
    config = ServeConfig(out=str(tmp_path), bundles={"main": "b"})

    async def life() -> None:
        stage = SlideStage(config, "serve-0", *NO_STAGE)
        stage.check_health()
        assert await stage.record_autoscaling_stats() == {WANTED: 0.0}
        assert not await stage.at_work()
        await stage.__del__()
        with pytest.raises(RuntimeError, match="has ended"):
            stage.check_health()

    asyncio.run(asyncio.wait_for(life(), 30))


class Away:
    """Jobs in a store that does not answer."""

    def waiting(self) -> int:
        raise UnreachableError("the store")


def test_while_the_store_is_away_as_many_replicas_are_wanted_as_before() -> None:
    away: Any = Away()
    assert replicas_for(away, 2, 7.0) == 7.0
