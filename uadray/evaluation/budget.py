"""What a reader of so many slides a day finds when reading the ranked list from the top, and where to cut the list."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.evaluation.arrays import Bools, Floats
from uadray.evaluation.delong import has_two_groups
from uadray.evaluation.detection import check_both_classes
from uadray.evaluation.judged import Judged
from uadray.evaluation.operating import counts_of
from uadray.evaluation.resampling import drawn_weights, members, percentiles, share_interval
from uadray.evaluation.trivial import trivial_scores
from uadray.reports.ranking import rank

Q = 0.1
"""The share of false discoveries, in expectation, of the list that q-values cut."""

_DAYS = (1, 2, 3, 4, 5, 6, 7, 10, 14, 20, 30, 50, 70, 100, 200, 500, 1000)
_GRID = np.linspace(0, 1, 41)
_RANKED_BY = ("slide_id", "state", "decision", "reason", "p_value", "score")

Cut = Callable[[Floats], Bools]
"""Weights of slides in the order of the list [b, n] -> which of them are read, [b, n] or [n]."""


@dataclass(frozen=True, eq=False)
class _List:
    """Slides in the order of the worklist, and what each trivial score would have found by each place of its order."""

    judged: Judged
    trivial: dict[str, Floats]

    @property
    def truth(self) -> Bools:
        return self.judged.anomalous


def budget(judged: Judged, slides_a_day: int, *, unscored: int = 0, unscored_anomalous: int = 0) -> dict[str, Any]:
    """What is found and missed on each day, and by each rule that says where to stop.

    All intervals are percentile bootstraps by patient; where a rule looks for its place in the list, it does so in
    each draw. They are of the share of anomalous slides among these slides: an archive in which fewer are anomalous has
    more normal slides before each of them.

    Args:
        judged: the slides; they are read in the order of the worklist (`reports.ranking`).
        slides_a_day: that a reader reads.
        unscored: slides with a label that are not assessable or have failed. They stand last on the worklist, where no
            score speaks for or against them: somebody has to read them in any case.
        unscored_anomalous: how many of them are anomalous.

    Returns:
        `slides_a_day`, `slides`, `anomalous`, `unscored`, `unscored_anomalous`, `days_for_all`;
        `days`: by day how many are `read` by then, `found`, `missed`, `found_share` with its `found_share_ci95`,
        `at_random` (what the same number finds in random order, in expectation) and `trivial` (by each trivial score);
        `cuts`: of each rule (see `_rules`) how many slides are `read`, `read_share` and `read_share_ci95`, `days`,
        `found`, `missed`, `found_share` and `found_share_ci95` (None where the rule fixes it), `normal_read`, and
        `needs_labels`, where it cannot be followed in an archive without labels; `recommended`, a rule that needs none;
        `curve`: share of the list read and share found; `band`: share read, and the interval of the share found.

    Raises:
        InputError: slides of one class only.
    """
    check_both_classes(judged.anomalous, "slides")
    ranked = _ranked(judged)
    n, n_anomalous = len(ranked.truth), int(ranked.truth.sum())
    rules = _rules(ranked)
    reads = [min(day * slides_a_day, n) for day in _days(math.ceil(n / slides_a_day))]
    drawn = _draws(ranked, rules, reads)
    return {
        "slides_a_day": slides_a_day, "slides": n, "anomalous": n_anomalous, "unscored": unscored,
        "unscored_anomalous": unscored_anomalous, "days_for_all": math.ceil(n / slides_a_day),
        "days": [_day(ranked, read, slides_a_day, drawn[f"read {read}"]) for read in reads],
        "cuts": [_cut(ranked, name, rule, slides_a_day, drawn) for name, rule in rules.items()],
        "recommended": "false_discoveries" if "false_discoveries" in rules else "decisions",
        **_curve(ranked, drawn["curve"]),
    }  # fmt: skip


def _ranked(judged: Judged) -> _List:
    table = pa.Table.from_pylist([{name: row.get(name) for name in _RANKED_BY} for row in _own(judged)])
    at = {slide_id: i for i, slide_id in enumerate(judged.slide_ids)}
    ordered = judged.only([at[slide_id] for slide_id in rank(table)["slide_id"].to_pylist()])
    trivial = trivial_scores(ordered.decisions)
    return _List(ordered, {name: _found_in_order(each, ordered.anomalous) for name, each in trivial.items()})


def _found_in_order(scores: Floats, truth: Bools) -> Floats:
    """[n + 1] Found among the first slides in the order of a score; of equal ones in expectation, as at random."""
    counts, _ = counts_of(scores, truth)
    read, found = np.cumsum(counts.normal + counts.anomalous), np.cumsum(counts.anomalous)
    return np.asarray(np.interp(np.arange(len(scores) + 1), [0, *read], [0, *found]), np.float64)


def _own(judged: Judged) -> Iterator[dict[str, Any]]:
    """The decisions, with the ids of the manifest."""
    for row, decision in zip(judged.rows, judged.decisions, strict=True):
        yield {**decision, "slide_id": row.slide_id}


def _rules(ranked: _List) -> dict[str, Cut]:
    """Where to stop.

    `decisions`: after the slides that are decided to be anomalous, whose p-value is at most alpha; of normal slides at
    most a share of alpha is among them.
    `false_discoveries`: after those whose q-value is at most `Q`, where decisions have q-values.
    `yield`: where the slides that follow hold no larger share of anomalous ones than the whole list does, so that
    reading on is no better than reading at random (the largest distance of found and normal slides read: Youden 1950).
    `sensitivity_95`, `sensitivity_99`: where as many per cent of the anomalous slides are found.
    """
    truth, decisions = ranked.truth, ranked.judged.decisions
    q_values = [decision.get("q_value") for decision in decisions]
    called = ranked.judged.called
    rules: dict[str, Cut] = {"decisions": lambda _: called}
    if any(q is not None for q in q_values):
        listed = np.array([q is not None and q <= Q for q in q_values], dtype=bool)
        rules["false_discoveries"] = lambda _: listed
    rules["yield"] = lambda weights: _up_to(_found(weights, truth) - _found(weights, ~truth))
    for percent in (95, 99):
        rules[f"sensitivity_{percent}"] = _until(percent / 100, truth)
    return rules


def _until(share: float, truth: Bools) -> Cut:
    return lambda weights: _up_to((_found(weights, truth) >= share - 1e-9).astype(np.float64))


def _up_to(heights: Floats) -> Bools:
    """[b, n] The slides up to the first of the greatest heights [b, n]; none where none is above 0."""
    n = heights.shape[1]
    stop = np.where(heights.max(1) > 0, heights.argmax(1), -1)
    return np.asarray(np.arange(n) <= stop[:, None], dtype=bool)


def _found(weights: Floats, truth: Bools) -> Floats:
    """[b, n] The share of these slides that stand up to each place."""
    of = weights * truth
    return np.asarray(np.cumsum(of, 1) / of.sum(1, keepdims=True), np.float64)


def _after(weights: Floats, truth: Bools, read: int) -> Floats:
    """[b] The share of anomalous slides among the first `read` of a draw, a slide at the edge by its part."""
    cumulated, found = np.cumsum(weights, 1), _found(weights, truth)
    at = (cumulated < read).sum(1).clip(max=weights.shape[1] - 1)[:, None]
    own = np.take_along_axis(weights, at, 1)
    before = np.take_along_axis(cumulated, at, 1) - own
    part = np.clip((read - before) / np.where(own > 0, own, 1.0), 0, 1)
    step = own * truth[at] / (weights * truth).sum(1, keepdims=True)
    return np.asarray((np.take_along_axis(found, at, 1) - step * (1 - part))[:, 0], np.float64)


def _draws(ranked: _List, rules: dict[str, Cut], reads: list[int]) -> dict[str, Floats]:
    """What each draw of patients gives, by name."""
    names = [*(f"read {read}" for read in reads), *(f"{of} {rule}" for rule in rules for of in ("read_by", "found_by"))]
    parts: dict[str, list[Floats]] = {name: [] for name in (*names, "curve")}
    truth, groups = ranked.truth, ranked.judged.groups
    if has_two_groups(truth, groups):
        member = members(len(truth), groups)
        for by_group in drawn_weights(int(member.max()) + 1, seed=0, width=8 * len(truth), draws=1000):
            weights = by_group[:, member]
            weights = weights[((weights * truth).sum(1) > 0) & ((weights * ~truth).sum(1) > 0)]
            for read in reads:
                parts[f"read {read}"].append(_after(weights, truth, read))
            for name, rule in rules.items():
                for part, values in zip(("read_by", "found_by"), _shares(weights, truth, rule), strict=True):
                    parts[f"{part} {name}"].append(values)
            until, found = (_from_none(each) for each in (np.cumsum(weights, 1), _found(weights, truth)))
            pairs = zip(until / until[:, -1:], found, strict=True)
            parts["curve"].append(np.stack([np.interp(_GRID, x, y) for x, y in pairs]))
    return {name: np.concatenate(each) if each else np.empty(0) for name, each in parts.items()}


def _from_none(rising: Floats) -> Floats:
    """[b, n + 1] With a 0 before the first slide."""
    return np.concatenate([np.zeros((len(rising), 1)), rising], 1)


def _shares(weights: Floats, truth: Bools, rule: Cut) -> tuple[Floats, Floats]:
    """[b] The share of slides that a rule reads, and of anomalous slides that it finds."""
    kept = weights * rule(weights)
    read = kept.sum(1) / weights.sum(1)
    return np.asarray(read, np.float64), np.asarray((kept * truth).sum(1) / (weights * truth).sum(1), np.float64)


def _day(ranked: _List, read: int, slides_a_day: int, drawn: Floats) -> dict[str, Any]:
    truth = ranked.truth
    n_anomalous, found = int(truth.sum()), int(truth[:read].sum())
    return {
        "day": math.ceil(read / slides_a_day), "read": read, "found": found, "missed": n_anomalous - found,
        "found_share": found / n_anomalous,
        "found_share_ci95": [1.0, 1.0]
        if read == len(truth)
        else share_interval(found / n_anomalous, drawn, _n_patients(ranked)),
        "at_random": n_anomalous * read / len(truth),
        "trivial": {name: float(by_score[read]) for name, by_score in ranked.trivial.items()},
    }  # fmt: skip


def _cut(ranked: _List, name: str, rule: Cut, slides_a_day: int, drawn: dict[str, Floats]) -> dict[str, Any]:
    truth = ranked.truth
    kept = np.broadcast_to(rule(np.ones((1, len(truth)))), (1, len(truth)))[0]
    read, found, n_anomalous = int(kept.sum()), int((kept & truth).sum()), int(truth.sum())
    return {
        "rule": name, "needs_labels": name not in ("decisions", "false_discoveries"), "read": read,
        "read_share": read / len(truth), "read_share_ci95": percentiles(drawn[f"read_by {name}"]),
        "days": math.ceil(read / slides_a_day), "found": found, "missed": n_anomalous - found,
        "found_share": found / n_anomalous,
        "found_share_ci95": None
        if name.startswith("sensitivity")
        else share_interval(found / n_anomalous, drawn[f"found_by {name}"], _n_patients(ranked)),
        "normal_read": read - found,
    }  # fmt: skip


def _curve(ranked: _List, drawn: Floats) -> dict[str, Any]:
    ones = np.ones((1, len(ranked.truth)))
    read = np.concatenate([[0.0], np.arange(1, len(ranked.truth) + 1) / len(ranked.truth)])
    found = np.concatenate([[0.0], _found(ones, ranked.truth)[0]])
    at = np.unique(np.linspace(0, len(read) - 1, 400).round().astype(int))
    curve = [[round(float(read[i]), 6), round(float(found[i]), 6)] for i in at]
    if not drawn.size:
        return {"curve": curve}
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {
        "curve": curve,
        "band": [[round(float(v), 6) for v in row] for row in zip(_GRID, low, high, strict=True)],
    }


def _n_patients(ranked: _List) -> int:
    """That have anomalous slides."""
    return len(np.unique(ranked.judged.groups[ranked.truth]))


def _days(days_for_all: int) -> list[int]:
    """Days to tell of: some, and the last."""
    return [*(day for day in _DAYS if day < days_for_all), days_for_all]
