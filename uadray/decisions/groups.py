"""Which normal slides a slide is compared with: those of its own site, scanner or stain, or all.

Which of the two depends on where slides are from, and on how many there are, and never on a score: so the claim of the
group's slides holds for every normal slide of that group (Mondrian conformal prediction; Vovk et al. 2005, 4.5). What
falls back to all slides, the pool, has the pool's claim: at most alpha of the normal slides *that are drawn as the
calibration's were* are called. Of the slides of one small or unknown group it may be more or less, and the decision
says that it was so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from uadray.decisions.conformal import MAX_GROUPS, MAX_NAME, Calibration, CalibrationGroup, Kind, one_a_patient
from uadray.decisions.false_alarms import false_alarm_interval, normals_needed, rank_of
from uadray.errors import InputError

POOL = "pool"

Origin = Mapping[str, str | None]
"""Where a slide is from: `site`, `scanner` and `stain`, as the manifest has them."""


@dataclass(frozen=True)
class Reference:
    """The normal slides that a slide is compared with.

    Attributes:
        name: of the group, `site=North, scanner=S360`, or `pool`.
        scores: of its slides, one a patient, ascending.
        why: why it is the pool, where the calibration has groups; else None.
    """

    name: str
    scores: tuple[float, ...]
    why: str | None = None


def reference_of(calibration: Calibration, origin: Origin) -> Reference:
    """The calibration's slides of the same group, where there are enough of them for alpha; else all of them."""
    if not calibration.group_by:
        return Reference(POOL, calibration.scores)
    values = values_of(origin, calibration.group_by)
    if values is None:
        unknown = ", ".join(kind for kind in calibration.group_by if not origin.get(kind))
        return Reference(POOL, calibration.scores, f"the slide's {unknown} is not known")
    name = group_name(values)
    group = next((group for group in calibration.groups if group.values == values), None)
    if group is None:
        return Reference(POOL, calibration.scores, f"the calibration has no slides of {name}")
    if rank_of(calibration.alpha, len(group.scores)) < 1:
        return Reference(POOL, calibration.scores, missing(name, len(group.scores), calibration.alpha))
    return Reference(name, group.scores)


def kinds_of(text: str) -> tuple[Kind, ...]:
    """What `--by` names, each once and always in the same order; none of an empty text.

    >>> kinds_of("scanner,site")
    ('site', 'scanner')

    Raises:
        InputError: it names something else.
    """
    named = {part.strip() for part in text.split(",") if part.strip()}
    known: tuple[Kind, ...] = get_args(Kind)
    if unknown := sorted(named.difference(known)):
        raise InputError(f"--by {text}: slides have no {unknown[0]}; groups can be made by {', '.join(known)}")
    return tuple(kind for kind in known if kind in named)


def values_of(origin: Origin, group_by: Sequence[Kind]) -> dict[Kind, str] | None:
    """What a slide's group is; None where the slide does not say all of it. Names are cut as calibrations cut them."""
    values = {kind: (origin.get(kind) or "")[:MAX_NAME] for kind in group_by}
    return values if all(values.values()) else None


def group_name(values: Mapping[Kind, str]) -> str:
    """A group as people read it.

    >>> group_name({"site": "North", "scanner": "S360"})
    'site=North, scanner=S360'
    """
    return ", ".join(f"{kind}={value}" for kind, value in values.items())


def members_of(
    origins: Mapping[str, Origin], patients: Mapping[str, tuple[str, str]], group_by: Sequence[Kind]
) -> list[tuple[dict[Kind, str], list[str]]]:  # fmt: skip
    """Each group with the ids of its slides, one a patient, in the order of their names.

    Args:
        origins: slide id -> where it is from.
        patients: slide id -> patient.
        group_by: what groups differ in; without, there are none.
    """
    groups: dict[str, tuple[dict[Kind, str], dict[str, tuple[str, str]]]] = {}
    for slide_id, origin in origins.items() if group_by else ():
        values = values_of(origin, group_by)
        if values is not None:
            groups.setdefault(group_name(values), (values, {}))[1][slide_id] = patients[slide_id]
    return [(values, one_a_patient(theirs)) for _, (values, theirs) in sorted(groups.items())]


def groups_of(
    scores: Mapping[str, float], origins: Mapping[str, Origin], patients: Mapping[str, tuple[str, str]],
    group_by: Sequence[Kind],
) -> tuple[CalibrationGroup, ...]:  # fmt: skip
    """The groups of a calibration; arguments as of `members_of`, and the score of each slide."""
    return tuple(
        CalibrationGroup(values=values, scores=tuple(sorted(scores[slide_id] for slide_id in members)))
        for values, members in members_of(origins, patients, group_by)
    )


def too_small(sizes: Mapping[str, int], alpha: float) -> list[str]:
    """Which groups are too small to be judged by themselves, in words; `sizes` is name -> slides, one a patient."""
    small = [missing(name, n, alpha) for name, n in sizes.items() if rank_of(alpha, n) < 1]
    return [f"{text}; it is judged by the pool" for text in small]


def check_groups(sizes: Mapping[str, int], group_by: Sequence[Kind], alpha: float) -> None:
    """Refuse groups of which none can be judged by itself, and more groups than a calibration can have.

    Args:
        sizes: name of each group -> its slides, one a patient.
        group_by: what they differ in.
        alpha: the stated false-alarm rate.

    Raises:
        InputError: with the slides that each lacks.
    """
    if len(sizes) > MAX_GROUPS:
        raise InputError(f"--by {','.join(group_by)}: {len(sizes)} groups are too many, {MAX_GROUPS} can be kept")
    small = [missing(name, n, alpha) for name, n in sizes.items() if rank_of(alpha, n) < 1]
    if group_by and len(small) == len(sizes):
        told = "; ".join(small[:5]) or f"no slide of the manifest has a {' and a '.join(group_by)}"
        more = f" and {len(small) - 5} more" if len(small) > 5 else ""
        raise InputError(f"--by {','.join(group_by)}: no group has enough normal slides: {told}{more}; leave --by out")


def missing(name: str, n_slides: int, alpha: float) -> str:
    """How many normal slides a group lacks.

    >>> missing("site=North", 7, 0.05)
    'site=North has 7 slides, 19 are needed at alpha 0.05: 12 more'
    """
    needed = normals_needed(alpha)
    has = f"{n_slides} slide" + ("s" if n_slides != 1 else "")
    return f"{name} has {has}, {needed} are needed at alpha {alpha:g}: {needed - n_slides} more"


def stated_rates(calibration: Calibration) -> dict[str, Any]:
    """What a calibration promises: the rate, its 95 % interval, and by group; and which groups have too few slides."""
    alpha, sizes = calibration.alpha, {group_name(g.values): len(g.scores) for g in calibration.groups}
    small = too_small(sizes, alpha)
    groups = {name: {"slides": n, **_rate(calibration, n)} for name, n in sizes.items() if rank_of(alpha, n)}
    by_group = {"groups": groups, "judged_by_the_pool": small} if calibration.group_by else {}
    return {"alpha": alpha, **_rate(calibration, len(calibration.scores)), **by_group}


def _rate(calibration: Calibration, n: int) -> dict[str, float]:
    """The false-alarm rate that n slides give: on average over calibrations, and where this one's lies."""
    alpha, smoothed = calibration.alpha, calibration.smoothed
    low, high = false_alarm_interval(alpha, n, smoothed=smoothed)
    mean = alpha if smoothed else rank_of(alpha, n) / (n + 1)
    return {"false_alarm_rate": mean, "false_alarm_low": low, "false_alarm_high": high}
