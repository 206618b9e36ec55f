"""What was read of a screening, for a terminal: how far it is, what fails, who is at work, what is slow or drifts."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from uadray.decisions.drift import in_words
from uadray.decisions.verdict import STATES
from uadray.monitoring.exported import label
from uadray.monitoring.ledger_metrics import BundleNumbers, LedgerNumbers
from uadray.monitoring.watched import Reading

MOST_ROWS = 8
"""Reasons, drivers and warnings that are shown of each kind; the rest is counted."""

_COLOURS = {"scored": "green", "not_assessable": "yellow", "failed": "red", "alive": "green", "dead": "red"}


def facts(name: str, reading: Reading | None, problem: str) -> Iterator[dict[str, Any]]:
    """One JSON object a screening, for what is no terminal."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    if reading is None:
        yield {"time": at, "screening": name, "problem": problem}
        return
    for screening, numbers in reading.numbers.items():
        yield {"time": at, "screening": screening, **_facts(numbers), "jobs": reading.jobs}
    if not reading.numbers:
        yield {"time": at, "screening": name, "jobs": reading.jobs}


def _facts(numbers: LedgerNumbers) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "slides": numbers.total,
        "decided": numbers.decided,
        "open": numbers.backlog,
        "per_second": round(numbers.per_second, 4),
        "seconds_left": numbers.seconds_left and round(numbers.seconds_left),
        "oldest_open_s": numbers.oldest_open and round((now - numbers.oldest_open).total_seconds()),
        "bundles": {bundle_name(each): _of_bundle(each) for each in numbers.bundles},
        "drivers": {state: sum(each.state == state for each in numbers.drivers) for state in ("alive", "dead")},
        "lag_s": numbers.lag_s(now),
        "slowest_stage": next(iter(numbers.stages), None),
        "stages": numbers.stages,
        "warnings": list(warnings(numbers)),
    }


def _of_bundle(bundle: BundleNumbers) -> dict[str, Any]:
    states = {f"{state}: {label(reason)}" if reason else state: n for (state, reason), n in bundle.slides.items() if n}
    return {"states": states, "decisions": bundle.decisions}


def bundle_name(bundle: BundleNumbers) -> str:
    """What a bundle is called."""
    return label(bundle.record.folder or bundle.record.name)


def warnings(numbers: LedgerNumbers) -> Iterator[str]:
    """What somebody should look at, each in a line."""
    dead = [each for each in numbers.drivers if each.state == "dead"]
    alive = [each for each in numbers.drivers if each.state == "alive"]
    if dead:
        named = ", ".join(label(each.driver) for each in dead[:3])
        then = "the others take over what it held" if alive else "the same command goes on from there"
        yield f"{len(dead)} driver{'s are' if len(dead) > 1 else ' is'} dead ({named}): {then}"
    if numbers.backlog and not alive and not dead:
        yield f"{numbers.backlog} slides are open, and nobody is at work on them"
    for each in numbers.drivers:
        if each.state == "ended" and each.progress is not None and each.progress.why.startswith("failed"):
            yield f"the last driver {label(each.progress.why)}"
    for bundle in numbers.bundles:
        yield from (f"{bundle_name(bundle)}: {line}" for line in _calibration_warnings(bundle))


def _calibration_warnings(bundle: BundleNumbers) -> Iterator[str]:
    drifted = {(each.site, each.scanner) for each in bundle.drift if each.detected_at is not None}
    yield from (f"drift, {in_words(each)}" for each in bundle.drift if each.detected_at is not None)
    for each in bundle.groups:
        if each.too_many and (each.site, each.scanner) not in drifted:
            yield (
                f"site {label(each.site)}, scanner {label(each.scanner)}: {each.n_called} of {each.n_slides} slides "
                f"have p <= {bundle.alpha:g}, more than normal slides have by chance: look at them"
            )
    if bundle.problem:
        yield f"nothing is told of drift: {label(bundle.problem)}"


def view(name: str, reading: Reading | None, problem: str) -> RenderableType:
    """A screening, or all of an endpoint's, for a terminal."""
    if reading is None:
        return Panel(Text(f"cannot be read: {problem}", "red"), title=Text(label(name)), border_style="red")
    panels: list[RenderableType] = []
    if reading.jobs is not None:
        queue = f"queue: {reading.jobs['waiting']} slides wait, {reading.jobs['running']} are at work"
        panels.append(Panel(Text(queue), title=Text(f"endpoint {label(name)}")))
    panels += [_panel(screening, numbers) for screening, numbers in reading.numbers.items()]
    return Group(*panels)


def _panel(name: str, numbers: LedgerNumbers) -> Panel:
    warned = list(warnings(numbers))
    parts: list[RenderableType] = [_bar(numbers), _pace(numbers), Text(), _columns(_states(numbers), _stages(numbers))]
    if numbers.drivers:
        parts += [Text(), _drivers(numbers)]
    if warned:
        more = [f"and {len(warned) - MOST_ROWS} more"] if len(warned) > MOST_ROWS else []
        parts += [Text(), *(Text(f"! {line}", "yellow") for line in [*warned[:MOST_ROWS], *more])]
    bundles = ", ".join(bundle_name(each) for each in numbers.bundles)
    title = Text.assemble((label(name), "bold"), f"  {bundles[:60]}  {numbers.run.fingerprint[:8]}")
    read = f"read {numbers.at:%H:%M:%S} UTC"
    return Panel(Group(*parts), title=title, subtitle=read, border_style="yellow" if warned else "green")


def _bar(numbers: LedgerNumbers) -> RenderableType:
    if numbers.total is None or numbers.backlog is None:
        return Text(f"{numbers.decided:,} slides are decided; how many there are in all, nobody has said")
    done, total = max(0, numbers.total - numbers.backlog), max(1, numbers.total)
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(ratio=1)
    row.add_column(justify="right", no_wrap=True)
    said = f"{100 * done / total:.0f} %  {done:,} of {numbers.total:,} slides, {numbers.backlog:,} open"
    row.add_row(ProgressBar(total=total, completed=done, complete_style="green"), Text(said))
    return row


def _pace(numbers: LedgerNumbers) -> Text:
    said = [f"{numbers.per_second:.2f} slides/s" if numbers.per_second >= 0.1 else f"{3600 * numbers.per_second:.0f}/h"]
    if numbers.backlog:
        left = numbers.seconds_left
        said.append("nothing moves" if left is None else f"{duration(left)} left")
    if numbers.oldest_open is not None:
        said.append(f"the oldest waits for {duration((datetime.now(UTC) - numbers.oldest_open).total_seconds())}")
    if numbers.timed:
        work = (numbers.read_seconds + numbers.score_seconds) / numbers.timed
        said.append(f"{work:.1f} s of work a slide")
    return Text("  |  ".join(said), "bold red" if "nothing moves" in said else "bold")


def _columns(left: RenderableType, right: RenderableType | None) -> RenderableType:
    if right is None:
        return left
    both = Table.grid(padding=(0, 4))
    both.add_row(left, right)
    return both


def _states(numbers: LedgerNumbers) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("slides")
    for bundle in numbers.bundles:
        table.add_column(bundle_name(bundle)[:20], justify="right")
    for state in STATES:
        reasons = [each.slides.items() for each in numbers.bundles]
        sums = [sum(n for (of, _), n in rows if of == state) for rows in reasons]
        table.add_row(Text(state.replace("_", " "), _COLOURS[state]), *(f"{n:,}" for n in sums))
        table = _with_reasons(table, state, numbers.bundles)
    for decision in ("normal", "anomalous"):
        counts = (f"{each.decisions.get(decision, 0):,}" for each in numbers.bundles)
        table.add_row(Text(decision, "magenta" if decision == "anomalous" else ""), *counts)
    return table


def _with_reasons(table: Table, state: str, bundles: Sequence[BundleNumbers]) -> Table:
    reasons = {reason for each in bundles for (of, reason), n in each.slides.items() if of == state and reason and n}
    ordered = sorted(reasons, key=lambda reason: -max(each.slides.get((state, reason), 0) for each in bundles))
    for reason in ordered[:MOST_ROWS]:
        counts = (f"{each.slides.get((state, reason), 0):,}" for each in bundles)
        table.add_row(Text(f"  {label(reason)}"), *counts, style="dim")
    if len(ordered) > MOST_ROWS:
        table.add_row(Text(f"  and {len(ordered) - MOST_ROWS} reasons more"), style="dim")
    return table


def _stages(numbers: LedgerNumbers) -> Table | None:
    whole = sum(numbers.stages.values())
    if not whole:
        return None
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("work", no_wrap=True)
    table.add_column("", width=14)
    table.add_column("", justify="right")
    for place, (stage, seconds) in enumerate(list(numbers.stages.items())[:MOST_ROWS]):
        style = "bold" if place == 0 else ""
        bar = ProgressBar(total=whole, completed=seconds, width=14, complete_style="red" if place == 0 else "cyan")
        table.add_row(Text(label(stage), style), bar, Text(f"{100 * seconds / whole:.0f} %", style))
    return table


def _drivers(numbers: LedgerNumbers) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for title in ("driver", "", "said", "slides", "tiles", "cores", "waits for"):
        table.add_column(title, justify="right" if title in ("slides", "tiles", "cores") else "left")
    now = datetime.now(UTC)
    for each in numbers.drivers[:MOST_ROWS]:
        progress = each.progress
        state = Text(each.state, _COLOURS.get(each.state, "dim"))
        if progress is None:
            table.add_row(Text(label(each.driver)), state)
            continue
        said = f"{duration((now - progress.at).total_seconds())} ago"
        note = progress.why if each.state == "ended" else progress.note
        counts = (f"{progress.slides_now:,}", f"{progress.tiles_now:,}", f"{progress.cores:g}")
        table.add_row(Text(label(each.driver)), state, said, *counts, Text(label(note)[:40]))
    if len(numbers.drivers) > MOST_ROWS:
        table.add_row(f"and {len(numbers.drivers) - MOST_ROWS} more")
    return table


def duration(seconds: float) -> str:
    """A time span as people say it.

    >>> [duration(s) for s in (7.6, 90, 7300, 200_000)]
    ['8 s', '2 min', '2.0 h', '2.3 d']
    """
    if seconds < 60:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 5400:
        return f"{-(-seconds // 60):.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"
