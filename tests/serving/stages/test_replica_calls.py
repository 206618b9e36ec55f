"""Calls to replicas: who is asked again, what is refused and with what words, and what is taken back."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from uadray.errors import SlideError
from uadray.serving.exchange.refusals import RefusedError
from uadray.serving.stages.replica_calls import answered

DIED = ActorDiedError()
BUSY = ActorUnavailableError("a replica is away", None)


class Response:
    """What a handle gives, as far as it is used."""

    def __init__(self, outcome: Any) -> None:
        self.outcome, self.is_cancelled = outcome, False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._outcome().__await__()

    async def _outcome(self) -> Any:
        if self.outcome is None:
            await asyncio.sleep(60)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.is_cancelled = True


def sends(*outcomes: Any) -> Callable[[], Sequence[Any]]:
    """One call each time, with these outcomes one after the other."""
    left = list(outcomes)
    return lambda: [Response(left.pop(0))]


def of_a_task(error: Exception) -> RayTaskError:
    raised = RayTaskError("method", "Traceback\n  /home/of/somebody", error, actor_id="0")
    return raised.as_instanceof_cause()


@pytest.mark.parametrize("lost", [DIED, BUSY, RayServeException("died in an earlier stage"), of_a_task(DIED)])
def test_a_dead_replicas_call_is_sent_again_once(lost: Exception) -> None:
    assert asyncio.run(answered(sends(lost, 5), by="it")) == 5
    with pytest.raises(RefusedError, match="it cannot answer now") as refused:
        asyncio.run(answered(sends(lost, lost, 5), by="it"))
    assert refused.value.status_code == 503
    assert refused.value.headers == {"Retry-After": "1"}


@pytest.mark.parametrize("outcomes", [[BackPressureError(32, 32)], [DIED, BackPressureError(32, 32)]])
def test_a_full_queue_is_not_asked_again(outcomes: list[Exception]) -> None:
    with pytest.raises(RefusedError, match="32 requests wait for it already") as refused:
        asyncio.run(answered(sends(*outcomes, 5), by="it"))
    assert refused.value.status_code == 429
    assert refused.value.headers == {"Retry-After": "1"}


def test_errors_come_as_they_were_raised() -> None:
    """Ray would add a traceback to the words, and paths of another machine with it."""
    with pytest.raises(SlideError) as raised:
        asyncio.run(answered(sends(of_a_task(SlideError("a", "changed", "it was replaced"))), by="it"))
    assert type(raised.value) is SlideError
    assert str(raised.value) == "slide a: it was replaced"
    with pytest.raises(ValueError, match=r"^no tiles$"):
        asyncio.run(answered(sends(of_a_task(ValueError("no tiles"))), by="it"))


def test_who_gives_up_takes_all_calls_back() -> None:
    responses = [Response(1), Response(2), Response(None)]

    async def give_up() -> None:
        async with asyncio.timeout(0.05):
            await answered(lambda: responses, by="it")

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert [response.is_cancelled for response in responses] == [True, True, True]
