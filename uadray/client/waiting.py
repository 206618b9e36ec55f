"""A job whenever there is news of it: by the endpoint's events, and by looking where these break off."""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import suppress

from uadray.client.answers import Job, job_of
from uadray.client.connection import Connection, pause_s, values_of
from uadray.client.events import event_data
from uadray.errors import UadrayError, WorkError

LOOK_S = 5.0
"""Between two looks at a job without events, or at a batch, which its endpoint has to count, at most."""


def states(connection: Connection, path: str, ends: float = float("inf")) -> Iterator[Job]:
    """The states of the job at a path, over cut connections and restarts; until `ends` (of `time.monotonic`).

    Raises:
        UadrayError: there is no such job, or no answer within the connection's patience.
    """
    turn = 0
    while True:
        with suppress(UadrayError):  # whatever it was, asking tells whether it lasts
            for state in _heard(connection, path, ends):
                turn = 0
                yield state
        yield job_of(values_of(connection.send("GET", path)))
        if time.monotonic() > ends:
            return
        time.sleep(min(pause_s(turn), LOOK_S))
        turn += 1


def _heard(connection: Connection, path: str, ends: float) -> Iterator[Job]:
    """A job as the endpoint's events tell it."""
    with connection.lines(f"{path}/events", timeout_s=max(1.0, ends - time.monotonic())) as lines:
        for data in event_data(itertools.takewhile(lambda line: time.monotonic() < ends, lines)):
            try:
                record = json.loads(data)
            except ValueError as error:
                raise WorkError(f"{path}/events: not JSON: {error}") from error
            yield job_of(record)
