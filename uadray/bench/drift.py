"""`bench drift`: how often drift is called where there is none, and after how many slides where there is.

- simulated: 1,000 streams of 500 normal slides, with five measures that are independent (of which none, some or all
  values are equal), against 30, 60 or 200 calibration slides: the share that ever raises, beside the stated one. Then
  streams of which one measure moves by 4, 2 or 1 deviations, at once or after 300 normal slides. And what breaks the
  claim, in 100 streams of 500 slides: `mixed`, where one slide in ten or twenty has one measure that is 2 deviations
  higher, as the scores of anomalous slides may be; `patients`, four slides of each, with half of the variance between
  patients, whom the manifest does not name; `patients_named` is the same where it does, which breaks nothing.
- tissue: slides of real tiles (`drift_slides`) whose stain or sharpness changes after 40 normal ones. Streams are
  random orders of the same slides; so are those of 260 normal slides, which should raise nothing.
- speed: 100,000 slides.

Delays count changed slides up to the one that raises, over all streams that have not raised before; one that never does
counts as infinite, and is null here. Bets were chosen on other simulated streams, and nothing was chosen on tissue.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.bench.drift_slides import SLIDES, Measures, measured_slides
from uadray.decisions.aggregation import AggregationConfig
from uadray.decisions.conformal import Calibration, NormalSlide
from uadray.decisions.drift import DELTA, GroupDrift, drift
from uadray.decisions.slide_measures import MEASURES
from uadray.errors import InputError

GOALS = {"raised_of_1000_normal_streams": 1000 * DELTA, "full_stain_slides_p95": 30, "seconds_of_100k_slides": 15}
"""Most streams of normal slides that raise, most slides until 95 of 100 streams of a full change of stain (`faded`, 60
calibration slides) have raised, and most seconds."""

PARTS = ("simulated", "tissue", "speed")
CALIBRATIONS = (30, 60, 200)
NORMAL_STREAMS, NORMAL_SLIDES = 1000, 500
STREAMS, CHANGED_SLIDES, NORMALS_BEFORE = 100, 60, 40
MOVES, LATE = (4.0, 2.0, 1.0), 300
SEED = 2026


def run(*, only: Sequence[str] = PARTS) -> dict[str, Any]:
    """Measure; prints nothing. Five minutes of one core.

    Args:
        only: parts.

    Raises:
        InputError: there is no such part, or no development data for `tissue`.
    """
    if unknown := [part for part in only if part not in PARTS]:
        raise InputError(f"bench drift has no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    figures: dict[str, Any] = {}
    reached: dict[str, float] = {}
    if "simulated" in only:
        figures["simulated"] = _simulated()
        reached["raised_of_1000_normal_streams"] = figures["simulated"]["raised"]
    if "tissue" in only:
        figures["tissue"] = _tissue(measured_slides())
        p95 = figures["tissue"]["delays"]["faded_full"]["60"]["p95"]
        reached["full_stain_slides_p95"] = math.inf if p95 is None else p95
    if "speed" in only:
        figures["speed"] = reached["seconds_of_100k_slides"] = _speed()
    met = all(value <= GOALS[name] for name, value in reached.items())
    return {"delta": DELTA, **figures, "goals": GOALS, "goals_met": met}


def decision_rows(measures: Sequence[Mapping[str, float]], *, stream: str) -> pa.Table:
    """Scored slides in this order, with the columns that drift looks at."""
    ids = [f"{stream}/{i:06d}" for i in range(len(measures))]
    rows = [
        {"slide_id": slide_id, "state": "scored", "decided_at": slide_id, "site": "site", "scanner": "scanner", **each}
        for slide_id, each in zip(ids, measures, strict=True)
    ]
    columns = [(name, pa.string()) for name in ("slide_id", "state", "decided_at", "site", "scanner")]
    return pa.Table.from_pylist(rows, schema=pa.schema([*columns, *((name, pa.float64()) for name in MEASURES)]))


def calibration_of(measures: Sequence[Mapping[str, float]]) -> Calibration:
    """A calibration of slides with these measures, of the site and scanner of `decision_rows`."""
    return Calibration(
        id="bench", bundle_id="bench", aggregation=AggregationConfig(), alpha=0.1, scores=(0.0,), tile_median=0.0,
        tile_p99=1.0, tile_high=1.0,
        normals=tuple(NormalSlide.model_validate({"site": "site", "scanner": "scanner", **each}) for each in measures),
    )  # fmt: skip


def _group(normals: Sequence[Measures], stream: Sequence[Measures], name: str) -> GroupDrift:
    (group,) = drift(decision_rows(stream, stream=name), calibration_of(normals))
    return group


def _drawn(rng: np.random.Generator, n: int, values: int | None = None) -> list[Measures]:
    """Measures of `n` slides: normal numbers, or whole ones of so many values."""
    numbers = rng.standard_normal((n, len(MEASURES))) if values is None else rng.integers(0, values, (n, len(MEASURES)))
    return [dict(zip(MEASURES, row, strict=True)) for row in numbers.astype(float).tolist()]


def _simulated() -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    highest = []
    for i in range(NORMAL_STREAMS):
        n, values = CALIBRATIONS[i % 3], (None, None, 5, 1)[i % 4]
        drawn = _drawn(rng, n + NORMAL_SLIDES, values)
        highest.append(max(_group(drawn[:n], drawn[n:], f"normal{i}").evidence.values()))
    raised = {f"raised_at_{delta:g}": _share(highest, delta) for delta in (0.01, 0.1, 0.5)}
    return {
        "normal_streams": NORMAL_STREAMS, "slides_of_each": NORMAL_SLIDES, "raised": _share(highest, DELTA), **raised,
        "broken_raised_of_100": {
            "mixed_10": _raised(_mixed(rng, 10)), "mixed_20": _raised(_mixed(rng, 20)),
            "patients": _raised(_patients(rng, "")), "patients_named": _raised(_patients(rng, "p")),
        },
        "delays": {
            f"{moved:g}_deviations_after_{begins}": {
                str(n): _delays(_moving(rng, n, begins, moved), begins) for n in CALIBRATIONS
            }
            for begins in (0, LATE) for moved in MOVES
        },
    }  # fmt: skip


def _share(highest: Sequence[float], delta: float) -> int:
    """How many streams reach the limit that holds for `delta`."""
    return sum(value >= math.log10(len(MEASURES) / delta) for value in highest)


def _raised(groups: Iterator[GroupDrift]) -> int:
    return sum(group.detected_at is not None for group in groups)


def _mixed(rng: np.random.Generator, every: int) -> Iterator[GroupDrift]:
    """Streams in which one slide of so many, at random, has a higher score."""
    for i in range(STREAMS):
        scores = rng.standard_normal(60 + NORMAL_SLIDES)
        scores[60:] += 2.0 * (rng.random(NORMAL_SLIDES) < 1 / every)
        drawn: list[Measures] = [{"tile_score_median": score} for score in scores.tolist()]
        yield _group(drawn[:60], drawn[60:], f"mixed{every}-{i}")


def _patients(rng: np.random.Generator, named: str) -> Iterator[GroupDrift]:
    """Streams of four slides of each patient, one after the other; the calibration has one of each.

    Patients are `named` and a number, or nameless.
    """
    for i in range(STREAMS):
        normals, slides, between = _drawn(rng, 60), _drawn(rng, NORMAL_SLIDES), _drawn(rng, NORMAL_SLIDES // 4)
        stream = [{m: (slide[m] + between[k // 4][m]) / 2**0.5 for m in MEASURES} for k, slide in enumerate(slides)]
        table = decision_rows(stream, stream=f"patients{named}{i}")
        names = [named and f"{named}{k // 4}" for k in range(len(stream))]
        yield drift(table.append_column("patient", pa.array(names)), calibration_of(normals))[0]


def _moving(rng: np.random.Generator, n: int, begins: int, moved: float) -> Iterator[GroupDrift]:
    for i in range(STREAMS):
        saturation = rng.standard_normal(n + begins + CHANGED_SLIDES)
        saturation[n + begins :] -= moved
        drawn: list[Measures] = [{"saturation": number} for number in saturation.tolist()]
        yield _group(drawn[:n], drawn[n:], f"moved{n}-{begins}-{moved}-{i}")


def _tissue(slides: Mapping[str, Sequence[Measures]]) -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    orders = [rng.permutation(SLIDES) for _ in range(STREAMS)]
    normal = slides["normal"]
    raised = 0
    for i, order in enumerate(orders):
        drawn = [normal[place] for place in order]
        raised += _group(drawn[:60], drawn[60:], f"normal{i}").detected_at is not None
    delays = {
        name: {str(n): _delays(_changing(slides, name, n, orders), NORMALS_BEFORE) for n in CALIBRATIONS}
        for name in slides if name != "normal"
    }  # fmt: skip
    return {
        "slides": SLIDES, "normal_streams": STREAMS, "raised": raised, "deviations": _deviations(slides),
        "delays": delays,
    }  # fmt: skip


def _changing(
    slides: Mapping[str, Sequence[Measures]], name: str, n: int, orders: Sequence[np.ndarray[Any, Any]]
) -> Iterator[GroupDrift]:
    """Streams of `NORMALS_BEFORE` normal slides and then changed ones; no slide is there twice."""
    for i, order in enumerate(orders):
        normal = [slides["normal"][place] for place in order]
        changed = [slides[name][place] for place in order[n + NORMALS_BEFORE :][:CHANGED_SLIDES]]
        yield _group(normal[:n], normal[n : n + NORMALS_BEFORE] + changed, f"{name}{n}-{i}")


def _deviations(slides: Mapping[str, Sequence[Measures]]) -> dict[str, dict[str, float]]:
    """By how many standard deviations of normal slides each change moves the mean of each measure."""
    columns = {name: {m: np.array([each[m] for each in some]) for m in some[0]} for name, some in slides.items()}
    normal = columns.pop("normal")
    return {
        name: {m: round(float((column.mean() - normal[m].mean()) / normal[m].std()), 1) for m, column in some.items()}
        for name, some in columns.items()
    }


def _delays(groups: Iterator[GroupDrift], begins: int) -> dict[str, Any]:
    """Changed slides until drift is called, over the streams; how many never do, or did before anything changed."""
    ends = [math.inf if group.detected_at is None else group.detected_at - begins for group in groups]
    late = [end for end in ends if end > 0]
    median, p95 = (float(np.quantile(late, share, method="higher")) for share in (0.5, 0.95))
    return {
        "median": median if math.isfinite(median) else None, "p95": p95 if math.isfinite(p95) else None,
        "missed": sum(map(math.isinf, late)), "too_early": len(ends) - len(late),
    }  # fmt: skip


def _speed() -> float:
    """Seconds for 100,000 slides of one group with all five measures."""
    rng = np.random.default_rng(SEED)
    table, calibration = decision_rows(_drawn(rng, 100_000), stream="speed"), calibration_of(_drawn(rng, 60))
    began = time.process_time()
    drift(table, calibration)
    return round(time.process_time() - began, 2)
