"""What an endpoint answers about slides, as values. Fields that a newer endpoint adds stand in `record` only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from uadray.client.notebook import shown
from uadray.errors import InputError, WorkError

ENDED = frozenset({"done", "cancelled"})
"""States that a job does not leave."""

Pictures = Callable[[], Mapping[str, bytes]]
"""Fetches pictures by name, when they are shown; those that cannot be had are left out."""


@dataclass(frozen=True)
class Progress:
    """How far a slide is.

    Attributes:
        tiles: that are scored.
        of: how many; None while the slide is being opened.
        seconds_left: about; None where that is not known yet.
    """

    tiles: int
    of: int | None
    seconds_left: float | None = None


@dataclass(frozen=True)
class BundleDecision:
    """What one bundle decides of a slide.

    Attributes:
        bundle: which, where there are several; else None.
        state: `scored`, `not_assessable` or `failed`.
        reason: why it is not scored.
        decision: `normal`, `anomalous` or `not_assessable`; None of a slide that failed.
        score: higher = more abnormal.
        p_value: of a normal slide that scores as high.
    """

    bundle: str | None
    state: str
    reason: str | None = None
    decision: str | None = None
    score: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Job:
    """A slide that was sent to an endpoint.

    Attributes:
        id: of the job.
        slide_id: of the slide.
        state: `waiting`, `running`, `done` or `cancelled`.
        why: it waits, or was cancelled.
        progress: while it runs.
        decisions: one of each bundle, once it is done.
        record: all that the endpoint says.
    """

    id: str
    slide_id: str
    state: str
    why: str | None = None
    progress: Progress | None = None
    decisions: tuple[BundleDecision, ...] = ()
    record: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED

    @property
    def has_failed(self) -> bool:
        """Whether it ended without a result: cancelled, or one bundle at least has failed at the slide."""
        return self.state == "cancelled" or any(each.state == "failed" for each in self.decisions)

    def __repr__(self) -> str:
        what = ", ".join(each.decision or f"{each.state}({each.reason})" for each in self.decisions)
        return f"<Job {self.id} {self.state}{': ' if what else ''}{what}>"

    def _repr_html_(self) -> str:
        tiles = f"{self.progress.tiles} of {self.progress.of}" if self.progress and self.progress.of else None
        left = self.progress.seconds_left if self.progress else None
        fields = {"job": self.id, "state": self.state, "why": self.why, "tiles": tiles, "seconds left": left}
        return shown(self.slide_id, fields | _fields(self.decisions))


@dataclass(frozen=True)
class Batch:
    """Slides that were sent together.

    Attributes:
        id: of the batch.
        counts: `open`, `done` and `cancelled` slides; of those that are done, by state, and the `anomalous`.
        record: all that the endpoint says.
    """

    id: str
    counts: dict[str, int]
    record: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def has_ended(self) -> bool:
        """Whether every slide is done or cancelled."""
        return self.counts.get("open") == 0

    @property
    def has_failed(self) -> bool:
        """Whether a slide has failed or was cancelled."""
        return bool(self.counts.get("failed") or self.counts.get("cancelled"))

    def __repr__(self) -> str:
        return f"<Batch {self.id} {', '.join(f'{n} {state}' for state, n in self.counts.items())}>"

    def _repr_html_(self) -> str:
        return shown(f"batch {self.id}", self.counts)


@dataclass(frozen=True)
class Decision:
    """What was decided of a slide: the same record as a screening's.

    Attributes:
        slide_id: of the slide.
        decisions: one of each bundle.
        record: as it lies in the output folder.
        pictures: for a notebook.
    """

    slide_id: str
    decisions: tuple[BundleDecision, ...]
    record: dict[str, Any] = field(repr=False)
    pictures: Pictures = field(default=dict, repr=False, compare=False)

    @property
    def only(self) -> BundleDecision:
        """The decision of the only bundle.

        Raises:
            InputError: there are several.
        """
        if len(self.decisions) != 1:
            raise InputError(f"{len(self.decisions)} bundles have decided: look at `decisions`")
        return self.decisions[0]

    def __repr__(self) -> str:
        what = "; ".join(f"{each.decision or each.reason}, p {_p(each.p_value)}" for each in self.decisions)
        return f"<Decision {self.slide_id}: {what}>"

    def _repr_html_(self) -> str:
        return shown(self.slide_id, _fields(self.decisions), self.pictures())


def job_of(record: Mapping[str, Any]) -> Job:
    """A job from what an endpoint says of it.

    Raises:
        WorkError: it is no job.
    """
    try:
        return Job(
            id=str(record["id"]), slide_id=str(record["slide_id"]), state=str(record["state"]), why=record.get("why"),
            progress=_progress(record.get("progress")), decisions=_decisions(record.get("decisions") or ()),
            record=dict(record),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        raise WorkError(f"the endpoint answers no job ({error}): is it of another version?") from error


def batch_of(record: Mapping[str, Any]) -> Batch:
    """A batch from what an endpoint says of it.

    Raises:
        WorkError: it is no batch.
    """
    try:
        counts = {str(state): int(n) for state, n in (record.get("counts") or {}).items()}
        return Batch(id=str(record["id"]), counts=counts, record=dict(record))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WorkError(f"the endpoint answers no batch ({error}): is it of another version?") from error


def decision_of(record: Mapping[str, Any], pictures: Pictures = dict) -> Decision:
    """A decision from a record of `decisions/<slide_id>.json`, of one bundle or of several.

    Raises:
        WorkError: it is none.
    """
    try:
        decisions = _decisions(record.get("decisions", [record]))
        return Decision(str(record["slide_id"]), decisions, dict(record), pictures)
    except (KeyError, TypeError, AttributeError) as error:
        raise WorkError(f"the endpoint answers no decision ({error}): is it of another version?") from error


def _progress(record: Mapping[str, Any] | None) -> Progress | None:
    return Progress(record["tiles"], record.get("of"), record.get("seconds_left")) if record else None


def _decisions(records: Any) -> tuple[BundleDecision, ...]:
    names = ("reason", "decision", "score", "p_value")
    return tuple(
        BundleDecision(each.get("bundle"), str(each["state"]), **{name: each.get(name) for name in names})
        for each in records
    )


def _fields(decisions: tuple[BundleDecision, ...]) -> dict[str, Any]:
    """For a table: state, decision, score and p-value, of each bundle."""
    return {
        f"{each.bundle}: {name}" if each.bundle else name: value
        for each in decisions
        for name, value in {
            "decision": each.decision or each.state, "reason": each.reason, "score": each.score, "p": each.p_value,
        }.items()
    }  # fmt: skip


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
