"""The scoring actor: tiles of one part in; of each bundle their scores and pictures of the most abnormal ones out."""

import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from uadray.detectors.bundle import load_detector
from uadray.detectors.description import BundleDescription
from uadray.detectors.detector import Detector
from uadray.detectors.gallery import load_gallery
from uadray.detectors.precision import Precision, lower_precision
from uadray.errors import SYSTEM_REASONS, reason_of
from uadray.screening.actor_detectors import ActorDetector, known_tiles, shared_memory, together
from uadray.screening.evidence_places import CANDIDATES, region_scores
from uadray.screening.part_scores import PartTiles, ScoreTiles, read_part, score_part
from uadray.screening.parts import failed_part, part_row, pixels_of, to_ipc, with_header
from uadray.stage_seconds import recording
from uadray.storage import objects, s3_client

SLIDES_AT_ONCE = 64
"""An actor remembers the best scores of so many slides; parts of fewer slides are on the way at the same time."""

LoadDetector = Callable[..., ScoreTiles]
"""Called as `load_detector` is, in the actor. Benchmarks give one whose cost they know."""


class PartScorer:
    """The scoring actor: map, reconstruct and score of every bundle fused, so that pixels arrive once and never leave.

    Args:
        bundles: the bundles' descriptions by their URI; they have the same tiles.
        device: "cpu" or "cuda".
        threads: of this actor, on a CPU.
        load: makes a detector.
        batch_tiles: tiles in one forward pass; None leaves it to the detector.
        precision: "bfloat16" scores in it where `lower_precision` allows it.
    """

    def __init__(
        self, bundles: Mapping[str, BundleDescription], device: str, threads: int, load: LoadDetector = load_detector,
        batch_tiles: int | None = None, precision: Precision = "float32",
    ) -> None:  # fmt: skip
        n_threads = threads if device == "cpu" else 1
        torch.set_num_threads(1 if n_threads > 1 else threads)
        if any(objects.is_s3(uri) for uri in bundles):
            s3_client.assume_reachable()  # the driver has read the bundles' descriptions there
        options = {"device": device} | ({"batch_tiles": batch_tiles} if batch_tiles else {})
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="uadray-score")
        loaded = [load(uri, bundle, **options) for uri, bundle in bundles.items()]
        for detector, bundle in zip(loaded, bundles.values(), strict=True):
            if precision == "bfloat16" and isinstance(detector, Detector):
                lower_precision(detector, tile_px=bundle.tiles.tile_px)
        self.detectors = [
            ActorDetector(detector, known_tiles(bundle), pool=self._pool, n_threads=n_threads)
            for detector, bundle in zip(loaded, bundles.values(), strict=True)
        ]
        self._floors = [_EvidenceFloor() for _ in bundles]
        self._galleries = [load_gallery(uri, bundle) if bundle else None for uri, bundle in bundles.items()]
        self._memory = shared_memory(self.detectors)

    def __call__(self, table: pa.Table) -> pa.Table:
        """A row of the reader -> a row of the scorer (columns: see `parts`).

        A detector that fails at a part fails at the slide: the other bundles' scores stand. Where all fail, or the
        system is to blame, the slide ends here.
        """
        (row,) = table.drop_columns(["pixels"]).to_pylist()
        if row["part"] < 0:
            return table
        with recording() as record:
            scored = self._scored(row, pixels_of(table))
        measured, read = record.taken(), json.loads(row["header"])
        return with_header(scored, {name: read.get(name, {}) | values for name, values in measured.items()})

    def _scored(self, row: dict[str, Any], pixels: pa.Buffer) -> pa.Table:
        began = time.perf_counter()
        try:
            part = read_part(row, pixels, pool=self._pool)
        except Exception as error:
            return failed_part(row["slide"], *_failure(error, "scoring"))
        scorers: Sequence[ScoreTiles] = self.detectors
        if self._memory is not None and len(part.images):
            scorers = together(self.detectors, part.images, self._memory)
        outcomes = [self._outcome(i, part, scorer) for i, scorer in enumerate(scorers)]
        failures = [outcome.failure for outcome in outcomes]
        fatal = _fatal(failures)
        if fatal is not None:
            return failed_part(row["slide"], *fatal)
        header = json.loads(row["header"]) | {
            "score_s": time.perf_counter() - began,
            "tiles": len(part.tiles),
            "errors": sum(error is not None for error in json.loads(row["errors"])),
            "failures": failures,
        }
        return part_row(
            row["slide"], row["part"], header=header, preview=row["preview"], masks=row["masks"],
            flagged=row["flagged"], scores=[outcome.scores for outcome in outcomes],
            evidence=[outcome.evidence for outcome in outcomes],
        )  # fmt: skip

    def _outcome(self, index: int, part: PartTiles, scorer: ScoreTiles) -> "_Outcome":
        detector, floor = self.detectors[index], self._floors[index]
        try:
            floor_score = floor.of(part.slide, part.number)
            scores, evidence = score_part(scorer, part, floor=floor_score, gallery=self._galleries[index])
        except Exception as error:  # names the slide, or the device, instead of ending the job
            return _Outcome(failure=_failure(error, "device" if detector.is_broken() else "scoring"))
        floor.sent(part.slide, part.number, region_scores(evidence, scores))
        return _Outcome(to_ipc(scores), to_ipc(evidence))


@dataclass(frozen=True)
class _Outcome:
    """What one detector makes of a part: Arrow IPC of its tables, or its failure."""

    scores: bytes = b""
    evidence: bytes = b""
    failure: tuple[str, str] | None = None


def _failure(error: Exception, reason: str) -> tuple[str, str]:
    """Reason and message; `reason` is for an error that does not tell of itself that the system is to blame."""
    word, message = reason_of(error)
    return word if word in SYSTEM_REASONS else reason, f"the detector failed: {message}"


def _fatal(failures: Sequence[tuple[str, str] | None]) -> tuple[str, str] | None:
    """The failure that ends the slide for every bundle: one of the system, or where none of the detectors worked."""
    failed = [failure for failure in failures if failure is not None]
    of_the_system = [failure for failure in failed if failure[0] in SYSTEM_REASONS]
    if of_the_system:
        return of_the_system[0]
    if failed and len(failed) == len(failures):
        return failed[0][0], "; ".join(dict.fromkeys(message for _, message in failed))
    return None


class _EvidenceFloor:
    """One bundle's scores of the tiles whose pictures were sent, by slide, part and region of the slide."""

    def __init__(self) -> None:
        self._sent: OrderedDict[int, dict[int, dict[tuple[int, int], float]]] = OrderedDict()

    def of(self, slide: int, part: int) -> float:
        """The score above which a tile of this part may be among the candidates: other regions' were sent before."""
        best: dict[tuple[int, int], float] = {}
        for other, sent in self._sent.get(slide, {}).items():
            if other != part:
                best |= {region: max(score, best.get(region, score)) for region, score in sent.items()}
        return sorted(best.values())[-CANDIDATES] if len(best) >= CANDIDATES else -math.inf

    def sent(self, slide: int, part: int, scores: dict[tuple[int, int], float]) -> None:
        """Remember what was sent of a part: the highest score by region."""
        self._sent.setdefault(slide, {})[part] = scores
        if len(self._sent) > SLIDES_AT_ONCE:
            self._sent.popitem(last=False)
