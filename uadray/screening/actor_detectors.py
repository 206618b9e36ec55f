"""The detectors of a scoring actor, on its threads: each by itself, or several side by side that share features."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from uadray.detectors.description import BundleDescription
from uadray.detectors.detector import BATCH, Detector, Pictures, Scored
from uadray.detectors.inversion.interruption import looked_at
from uadray.detectors.pixels import Pixels
from uadray.detectors.stage_clock import StageClock, clocked
from uadray.networks.remembered import Memory
from uadray.screening.part_scores import ScoreTiles
from uadray.stage_seconds import add_seconds, tally, timed


class ActorDetector:
    """A detector on the threads of its actor.

    Attributes:
        detector: that is called.
        pool: the threads.
        n_threads: of them.
        known: tiles that it has scored when the actor began.
    """

    def __init__(self, detector: ScoreTiles, known: Pixels, *, pool: Executor, n_threads: int) -> None:
        self._clock = StageClock() if isinstance(detector, Detector) else None
        self.detector = clocked(detector, self._clock) if isinstance(detector, Detector) and self._clock else detector
        self.known, self.pool, self.n_threads = known, pool, n_threads
        try_out(detector, known)

    def __call__(self, images: Pixels) -> Scored:
        """Score on a CPU with a share of the tiles a thread: 1.2 times as fast as all threads in each operation."""
        with timed("" if self._clock else "score"):
            if self.n_threads == 1:
                scored = self.detector(images)
            else:
                shares = self.pool.map(self.detector, shares_of(images, self.step))
                scored = joined(list(shares), self.step)
        return self.told(scored)

    @property
    def step(self) -> int:
        """Tiles that a thread scores at once: together no more activations than one batch has."""
        return max(4, int(getattr(self.detector, "batch_tiles", BATCH)) // self.n_threads)

    def told(self, scored: Scored) -> Scored:
        """The same; what the stages took for it is added to the record of this part."""
        tally("batch_tiles", len(scored.score))
        tally("batch_room", -(-len(scored.score) // self.step) * self.step)
        seconds = self._clock.take() if self._clock else {}
        for stage, its_seconds in seconds.items():
            add_seconds(stage, its_seconds)
        if isinstance(self.detector, Detector) and self.detector.device.type == "cuda":
            tally("gpu_seconds", sum(seconds.values()))
        return replace(scored, pictures=self._untold(scored.pictures))

    def _untold(self, pictures: Pictures) -> Pictures:
        """The same, without what the stages take for it: that is time of the pictures."""

        def made(rows: Sequence[int]) -> tuple[Pixels, Pixels | None]:
            answer = pictures(rows)
            if self._clock:
                self._clock.take()
            return answer

        return made

    def is_broken(self) -> bool:
        """Whether it cannot score any more what it scored when the actor began: then it is not the slide."""
        try:
            try_out(self.detector, self.known)
        except Exception:
            return True
        return False


class _TriedError(Exception):
    """A search has made its first step."""


def try_out(detector: ScoreTiles, tiles: Pixels) -> None:
    """Score tiles; where a detector searches, make the first step for them alone: all of them may take an hour."""

    def end(share: float) -> None:
        raise _TriedError

    with suppress(_TriedError), looked_at(end):
        detector(tiles)


def shares_of(images: Pixels, step: int) -> list[Pixels]:
    """The tiles in parts of so many."""
    return [images[i : i + step] for i in range(0, len(images), step)]


def joined(shares: Sequence[Scored], step: int) -> Scored:
    """What a detector says of the tiles of which it was given `step` at a time."""

    def pictures(rows: Sequence[int]) -> tuple[Pixels, Pixels | None]:
        pairs = [shares[row // step].pictures([row % step]) for row in rows]
        x_hats = [x_hat for _, x_hat in pairs if x_hat is not None]
        return np.concatenate([x for x, _ in pairs]), np.concatenate(x_hats) if x_hats else None

    def maps(rows: Sequence[int]) -> npt.NDArray[np.float32]:
        return np.concatenate([shares[row // step].maps([row % step]) for row in rows])

    cells = [share.cells for share in shares if share.cells is not None]
    score = np.concatenate([share.score for share in shares])
    return Scored(score, pictures, maps, np.concatenate(cells) if cells else None)


def shared_memory(detectors: Sequence[ActorDetector]) -> Memory | None:
    """The memory in which detectors share features, found by the tiles that they know; None where they share none.

    Those that search share none: beside the search, which has features of its own at each step, they would be little.
    """
    memory = Memory()
    if len(detectors) < 2 or not all(isinstance(e.detector, Detector) and not e.detector.searches for e in detectors):
        return None
    for _ in range(2):  # at first it is not known which features others will ask for
        memory.hits = 0
        with memory.batch():
            for each in detectors:
                each.detector(each.known)
    return memory if memory.hits else None


def together(detectors: Sequence[ActorDetector], images: Pixels, memory: Memory) -> list[ScoreTiles]:
    """For each detector what gives its answer to these tiles, or raises what it raised.

    All score a share of the tiles before the next is begun, so that features of few tiles are remembered at a time.
    """
    step = min(each.step for each in detectors)

    def of_share(share: Pixels) -> list[Scored | Exception]:
        with memory.batch():
            return [_outcome(each.detector, share) for each in detectors]

    shares = list(detectors[0].pool.map(of_share, shares_of(images, step)))
    return [_given(each, [share[i] for share in shares], step) for i, each in enumerate(detectors)]


def _outcome(detector: ScoreTiles, share: Pixels) -> Scored | Exception:
    try:
        return detector(share)
    except Exception as error:  # of one detector: the others go on
        return error


def _given(detector: ActorDetector, shares: Sequence[Scored | Exception], step: int) -> Callable[[Pixels], Scored]:
    def answer(images: Pixels) -> Scored:
        for share in shares:
            if isinstance(share, Exception):
                raise share
        return detector.told(joined([share for share in shares if isinstance(share, Scored)], step))

    return answer


def known_tiles(bundle: BundleDescription | None) -> Pixels:
    """[2, tile, tile, 3], always the same: what every device must be able to score."""
    side = bundle.tiles.tile_px if bundle is not None else 64
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
