"""Requests that a replica computes together, and what ends a search for them: nobody waits, or it takes too long.

A search (AnoGAN, projection) takes seconds for a tile, where other detectors take milliseconds. So it is looked at
between its steps, see `uadray.detectors.inversion.interruption`: from the share of its steps that are done follows how
long it will take, and a request whose tiles cannot be searched for in its time is refused after the first steps, with
the number of tiles that can. Tiles of slides have no limit. Knows nothing of Ray.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from uadray.detectors.detector import Detector
from uadray.errors import UadrayError
from uadray.serving.stages.loaded_stages import n_tiles

SURE_SHARE, SURE_S = 0.02, 0.5
"""From so much of a search on, after so many seconds, it is said how long all of it will take."""

SURE_FACTOR = 1.5
"""And it is ended if that is so many times the time that is left: tiles that are done early make a search faster."""


class SearchEndedError(Exception):
    """A search was ended between two steps, and nothing is wrong with it.

    Attributes:
        tile_s: seconds that a tile takes; 0 where nobody waits any more.
    """

    def __init__(self, tile_s: float = 0.0) -> None:
        super().__init__(tile_s)
        self.tile_s = tile_s


class TooManyTilesError(UadrayError):
    """A request has more tiles than can be searched for in its time; the message says how many can."""


class CrowdedError(UadrayError):
    """A request's tiles would have been done in time if there had not been those of others."""


@dataclass(eq=False)
class Asked:
    """A request in a replica.

    Attributes:
        detector: of its bundle.
        arguments: of the kind of stage; pixels or latents first.
        limit_s: that a search may take from its arrival on; None: as long as it takes.
        arrived: when it came here (monotonic).
        is_gone: it has timed out, or its sender has gone.
    """

    detector: Detector
    arguments: tuple[Any, ...]
    limit_s: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    is_gone: bool = False

    @property
    def tiles(self) -> int:
        """How many."""
        return n_tiles(self.arguments[0])

    def refuse(self, tile_s: float) -> NoReturn:
        """Say why its search was ended.

        Raises:
            TooManyTilesError: it has too many tiles.
            CrowdedError: it has not.
        """
        limit_s = self.limit_s or 0.0
        fitting = int(limit_s / tile_s)
        if fitting >= self.tiles:
            raise CrowdedError("tiles of other requests take all the time; try again in a moment")
        most = f"send at most {fitting}" if fitting else "that is too long for any"
        raise TooManyTilesError(
            f"the search for {self.tiles} tiles would take about {_rounded(self.tiles * tile_s)} s, and may take "
            f"{limit_s:g} s: {most}, or have the endpoint's request_timeout_s raised; slides sent as jobs have no limit"
        )


class JoinedCall:
    """What looks at the search for several requests.

    Args:
        asked: the requests.
        clock: seconds, as of `Asked.arrived`.
    """

    def __init__(self, asked: Sequence[Asked], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._asked, self._clock, self._began = asked, clock, clock()
        self._tiles = sum(each.tiles for each in asked)
        self._passes = math.ceil(self._tiles / asked[0].detector.batch_tiles)
        self._past, self._share = 0, 0.0

    def look(self, share: float) -> None:
        """Called between steps, with the share of this pass that is done.

        Raises:
            SearchEndedError: nobody waits, or it takes too long.
        """
        self._past += share <= self._share  # a pass more
        self._share = share
        waiting = [each for each in self._asked if not each.is_gone]
        if not waiting:
            raise SearchEndedError
        ends = [math.inf if each.limit_s is None else each.arrived + each.limit_s for each in waiting]
        spent_s, left_s = self._clock() - self._began, max(ends) - self._began
        done = min(1.0, (self._past + share) / self._passes)
        is_sure = done >= SURE_SHARE and spent_s >= SURE_S and spent_s / done > SURE_FACTOR * left_s
        if is_sure or spent_s > left_s:
            raise SearchEndedError(spent_s / done / self._tiles)


def _rounded(seconds: float) -> str:
    """Two digits.

    >>> _rounded(1234), _rounded(0.123)
    ('1200', '0.12')
    """
    return f"{float(f'{seconds:.2g}'):g}"
