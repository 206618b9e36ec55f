"""Which slides of a screening are judged: those with a label and a score that were used for nothing before."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from uadray.errors import InputError
from uadray.evaluation.arrays import Bools, Floats, Groups, Whole
from uadray.slides.manifest import SlideRow

Decisions = Mapping[str, Mapping[str, Any]]
"""Rows of `SLIDE_DECISIONS` by slide id."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Slides that figures are of, in the order of the manifest.

    Attributes:
        rows: of the manifest.
        decisions: of each, its row of `SLIDE_DECISIONS`.
        scores: [n], finite.
        anomalous: [n], by the label.
        groups: [n], the patient of each slide, or the slide itself.
        grouped_by: `patient` where the manifest names any, else `slide`.
    """

    rows: Sequence[SlideRow]
    decisions: Sequence[Mapping[str, Any]]
    scores: Floats
    anomalous: Bools
    groups: Groups
    grouped_by: str

    @property
    def called(self) -> Bools:
        """[n] Which of them are decided to be anomalous."""
        return np.array([d["decision"] == "anomalous" for d in self.decisions], dtype=bool)

    @property
    def slide_ids(self) -> list[str]:
        """Of each."""
        return [row.slide_id for row in self.rows]

    def only(self, chosen: Sequence[int] | Whole) -> "Judged":
        """Some of them, by number, in that order."""
        at = np.asarray(chosen, np.int64)
        rows, decisions = [self.rows[i] for i in at], [self.decisions[i] for i in at]
        return Judged(rows, decisions, self.scores[at], self.anomalous[at], self.groups[at], self.grouped_by)


def judged_slides(decisions: Decisions, rows: Sequence[SlideRow]) -> Judged:
    """The slides that have a label and a finite score, see `scored_slides`."""
    scored = scored_slides(decisions, rows)
    groups, grouped_by = groups_of([r.slide_id for r in scored], rows)
    return Judged(
        rows=scored,
        decisions=[decisions[r.slide_id] for r in scored],
        scores=np.array([decisions[r.slide_id]["score"] for r in scored], dtype=np.float64),
        anomalous=np.array([is_anomalous(r.label) for r in scored], dtype=bool),
        groups=groups,
        grouped_by=grouped_by,
    )


def scored_slides(decisions: Decisions, rows: Sequence[SlideRow]) -> list[SlideRow]:
    """The slides that have a label and a finite score.

    Args:
        decisions: rows of `SLIDE_DECISIONS` by slide id.
        rows: the manifest.
    """
    scored = [r for r in labelled_slides(decisions, rows) if decisions[r.slide_id]["state"] == "scored"]
    finite, _ = finite_scores(slide_scores(decisions, scored))
    return [scored[i] for i in np.flatnonzero(finite)]


def labelled_slides(decisions: Decisions, rows: Sequence[SlideRow]) -> list[SlideRow]:
    """The slides that have a label and a decision, whatever it is, and that neither training nor calibration used."""
    return [r for r in rows if r.label and r.slide_id in decisions and not decisions[r.slide_id].get("note")]


def left_out(decisions: Decisions, rows: Sequence[SlideRow]) -> dict[str, int]:
    """How many labelled slides are not judged because training or calibration used them, by which it was.

    Their scores say nothing new: the detector has learned from them, or they are among the scores that they are
    compared with.
    """
    notes = Counter(str(decisions[r.slide_id].get("note")) for r in rows if r.label and r.slide_id in decisions)
    return {note: n for note, n in sorted(notes.items()) if note not in ("None", "")}


def is_anomalous(label: str | None) -> bool:
    """True for every label but `normal`, however it is written: the detector is not told which anomaly it is."""
    return (label or "").casefold() != "normal"


def groups_of(slides: Sequence[str | None], rows: Sequence[SlideRow]) -> tuple[Groups, str]:
    """The group of each sample, and what a group is: a patient where `rows` know any, else a slide, else a tile.

    A slide without a patient is a group by itself, and so is a tile without a slide.
    """
    patients = {row.slide_id: row.patient_id for row in rows if row.patient_id}
    names = [
        f"tile {i}" if not slide else f"patient {patients[slide]}" if slide in patients else f"slide {slide}"
        for i, slide in enumerate(slides)
    ]
    grouped_by = "patient" if any(s in patients for s in slides) else "slide" if any(slides) else "tile"
    return np.array(names, dtype=np.str_), grouped_by


def slide_scores(decisions: Decisions, rows: Sequence[SlideRow]) -> pa.Array:
    """Of each slide; null where it has none."""
    return pa.array([decisions[r.slide_id]["score"] for r in rows], pa.float64())


def finite_scores(scores: pa.Array | pa.ChunkedArray) -> tuple[Bools, int]:
    """Which scores are numbers, and how many are NaN or infinite: these are faults, and not scores that are missing.

    Raises:
        InputError: the column has something else than numbers.
    """
    try:
        values = scores.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"scores: the column score has {scores.type}, expected numbers") from error
    finite = np.isfinite(values)
    return finite, int(len(scores) - scores.null_count - finite.sum())
