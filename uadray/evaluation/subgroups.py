"""Figures by site, scanner, stain and amount of tissue: where a detector works less well than on the whole."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from uadray.evaluation.delong import auroc_interval
from uadray.evaluation.detection import auroc
from uadray.evaluation.intervals import exact_interval
from uadray.evaluation.judged import Judged
from uadray.evaluation.trivial import trivial_scores

ORIGINS = ("site", "scanner", "stain")

MOST_GROUPS = 20
"""Of a table; the slides of all smaller ones are told together as `others`."""

UNKNOWN, OTHERS = "not said", "others"


def subgroups(judged: Judged) -> dict[str, list[dict[str, Any]]]:
    """Tables of figures: by `site`, `scanner`, `stain` (those that differ among the slides) and `tissue`.

    Each row has `group`, `slides`, `n_normal`, `n_anomalous`, `auroc` with its `auroc_ci95` (see
    `delong.auroc_interval`; None of one class), `false_alarms` with the exact interval of their share of normal slides
    `false_alarms_ci95`, `found` with that of anomalous ones `found_ci95`, and `trivial`, the highest AUROC of a trivial
    score. Groups are looked at one by one: of twenty intervals of 95 % one misses by chance.
    """
    tables = {}
    for field, names in _partitions(judged):
        order = (
            [*sorted(set(names) - {UNKNOWN, OTHERS}), OTHERS, UNKNOWN] if field != "tissue" else dict.fromkeys(names)
        )
        at = np.array(names)
        rows = [_row(name, judged.only(np.flatnonzero(at == name))) for name in order if name in names]
        if len(rows) > 1:
            tables[field] = sorted(rows, key=lambda row: row["group"]) if field == "tissue" else rows
    return tables


def _partitions(judged: Judged) -> Iterator[tuple[str, list[str]]]:
    """Each table's name, and the group of every slide in it."""
    for field in ORIGINS:
        pairs = zip(judged.decisions, judged.rows, strict=True)
        names = [str(decision.get(field) or getattr(row, field) or UNKNOWN) for decision, row in pairs]
        common = {name for name, _ in Counter(names).most_common(MOST_GROUPS)}
        yield field, [name if name in common else OTHERS for name in names]
    yield "tissue", _thirds(judged)


def _thirds(judged: Judged) -> list[str]:
    """The slides in three parts by how many tissue tiles they have; one part where decisions do not say."""
    values = [_tiles(decision) for decision in judged.decisions]
    if not values or None in values:
        return [UNKNOWN] * len(values)
    tiles = np.array(values, np.float64)
    low, high = np.quantile(tiles, [1 / 3, 2 / 3])
    names = (f"1: up to {low:.0f} tissue tiles", f"2: up to {high:.0f}", f"3: more than {high:.0f}")
    return [names[int(n > low) + int(n > high)] for n in tiles]


def _tiles(decision: Mapping[str, Any]) -> int | None:
    return decision.get("n_tiles")


def _row(name: str, part: Judged) -> dict[str, Any]:
    anomalous, called = part.anomalous, part.called
    false_alarms, found = int((called & ~anomalous).sum()), int((called & anomalous).sum())
    n_normal, n_anomalous = int((~anomalous).sum()), int(anomalous.sum())
    aurocs = [auroc(values, anomalous) for values in trivial_scores(part.decisions).values()]
    return {
        "group": name, "slides": len(part.scores), "n_normal": n_normal, "n_anomalous": n_anomalous,
        "auroc": auroc(part.scores, anomalous),
        "auroc_ci95": auroc_interval(part.scores, anomalous, groups=part.groups)["ci95"],
        "false_alarms": false_alarms, "false_alarms_ci95": exact_interval(false_alarms, n_normal),
        "found": found, "found_ci95": exact_interval(found, n_anomalous),
        "trivial": max((value for value in aurocs if value is not None), default=None),
    }  # fmt: skip
