"""Which slides may calibrate a bundle: normal, unseen by its training, each once, and enough of them."""

import logging
from collections.abc import Mapping, Sequence

from uadray.decisions.conformal import Kind, check_alpha
from uadray.decisions.groups import check_groups, group_name, members_of, too_small, values_of
from uadray.detectors.bundle import Bundle
from uadray.errors import InputError, shown
from uadray.slides import identity
from uadray.slides.manifest import SlideRow, has_label

log = logging.getLogger("uadray.commands.calibrate")


def check(
    rows: list[SlideRow], bundle: Bundle, *, alpha: float, group_by: Sequence[Kind] = ()
) -> dict[str, str]:  # fmt: skip
    """Refuse slides that are not normal, were trained on or are there twice, and too few patients for `alpha`.

    Warns of groups that have too few.

    Returns:
        Slide id -> `identity.content`, of those that can be read.

    Raises:
        InputError: naming the slides.
    """
    not_normal = [row.slide_id for row in rows if row.label and not has_label(row.label, "normal")]
    if not_normal:
        raise InputError(f"calibration takes normal slides alone; labelled otherwise: {_first_five(not_normal)}")
    check_alpha(alpha, len({row.patient for row in rows}))
    _check_groups(rows, alpha, group_by)
    contents = identity.contents(rows)
    _check_unseen(rows, bundle.trained_on, contents)
    places = {row.slide_id: contents.get(row.slide_id, row.uri) for row in rows}
    if same := identity.groups(places):
        raise InputError(
            f"calibration counts each slide once; {len(same)} of its files are there under several ids: "
            f"{'; '.join(' = '.join(ids[:5]) for ids in same[:3])}; keep one of each"
        )
    without_patient = sum(row.patient_id is None for row in rows)
    if without_patient:
        text = "%d of %d slides have no patient_id: each is taken for a patient of its own"
        log.warning(text, without_patient, len(rows))
    return contents


def _check_groups(rows: list[SlideRow], alpha: float, group_by: Sequence[Kind]) -> None:
    """Before hours go into scoring: how many slides each group has at most."""
    members = members_of({r.slide_id: r.origin for r in rows}, {r.slide_id: r.patient for r in rows}, group_by)
    sizes = {group_name(values): len(slide_ids) for values, slide_ids in members}
    check_groups(sizes, group_by, alpha)
    for text in too_small(sizes, alpha)[:20]:
        log.warning("%s", text)
    without = len(rows) - sum(bool(values_of(row.origin, group_by)) for row in rows)
    if group_by and without:
        log.warning("%d of %d slides do not say their %s: they count in the pool alone", without, len(rows),
                    " and ".join(group_by))  # fmt: skip


def _check_unseen(rows: list[SlideRow], trained_on: identity.Seen, contents: Mapping[str, str]) -> None:
    """Refuse slides that were trained on; warn of other slides of the same patients."""
    trained = [r.slide_id for r in rows if identity.is_seen(r, trained_on, content=contents.get(r.slide_id))]
    if trained:
        raise InputError(
            "calibration slides must not have been trained on, under whatever id (their scores are too low, and the "
            f"false-alarm rate would not hold): {_first_five(trained)}"
        )
    known = [row.slide_id for row in rows if identity.patient_mark(row, trained_on.salt) in trained_on.marks]
    if known:
        log.warning(
            "%d of %d slides are of patients whose other slides were trained on: their scores may be too low, and the "
            "false-alarm rate may not hold; `uadray split` keeps patients together", len(known), len(rows),
        )  # fmt: skip


def warn_of_equal_scores(scores: Mapping[str, float]) -> None:
    """Warn of slides with the same score: one slide that was saved twice, or a detector that is broken."""
    for ids in identity.groups({slide_id: repr(score) for slide_id, score in scores.items()})[:5]:
        log.warning("%d slides have the same score; are they one? %s", len(ids), ", ".join(map(shown, ids[:5])))


def _first_five(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
