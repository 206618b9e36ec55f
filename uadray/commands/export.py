"""`uadray export`: a screening's scores and decisions in the formats of other tools."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from uadray.commands.progress import progress
from uadray.errors import InputError
from uadray.exports.catalog import format_of
from uadray.exports.exported_slide import Coordinates, ExportOptions
from uadray.exports.run import export


def run(
    out: str, *, format_name: str, to: str | None, slides: str | None, threshold: str | None, all_tiles: bool,
    anomalous_only: bool, coordinates: str | None, bundle: str | None, processes: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Export, with progress; returns what `exports.run.export` does.

    Args:
        out: the output folder of a screening, that of one of its bundles, or a scores.parquet.
        format_name: see `exports.catalog`.
        to: folder or s3:// URI.
        slides: ids with commas, or `@FILE` with one a line.
        threshold: a tile score, or a share of normal tiles like `99%`.
        all_tiles: write all tiles where a format writes regions.
        anomalous_only: only slides called anomalous.
        coordinates: `level0` or `qupath`.
        bundle: where the bundle lies now.
        processes: at work at once.

    Raises:
        InputError: nothing to export, or an option that makes no sense.
    """
    format_of(format_name)  # before anything is read
    score, quantile = _threshold(threshold)
    options = ExportOptions(score, quantile, all_tiles, _coordinates(coordinates))
    with progress("export") as tick:
        return export(
            out, format_name, options, to=to, only=_ids(slides), anomalous_only=anomalous_only, bundle=bundle,
            processes=processes, progress=tick,
        )  # fmt: skip


def summary_line(summary: dict[str, Any]) -> str | None:
    """What standard error says of slides that were not exported; None where all were."""
    failed = summary["failed"]
    if not failed:
        return None
    named = "; ".join(f"{slide_id}: {why}"[:300] for slide_id, why in list(failed.items())[:3])
    return f"{len(failed)} slides were not exported: {named}" + (" ..." if len(failed) > 3 else "")


def _threshold(text: str | None) -> tuple[float | None, float | None]:
    """A score, or a share.

    >>> _threshold("0.7"), _threshold("99%"), _threshold(None)
    ((0.7, None), (None, 0.99), (None, None))
    """
    if text is None:
        return None, None
    try:
        value = float(text.removesuffix("%"))
    except ValueError as error:
        raise InputError(f"--threshold {text}: expected a tile score, or a share of normal tiles like 99%") from error
    if not text.endswith("%"):
        if value != value:
            raise InputError(f"--threshold {text}: not a number")
        return value, None
    if not 0 <= value <= 100:
        raise InputError(f"--threshold {text}: a share lies between 0% and 100%")
    return None, value / 100


def _coordinates(text: str | None) -> Coordinates | None:
    match text:
        case None | "level0" | "qupath":
            return text
    raise InputError(f"--coordinates {text}: expected level0 or qupath")


def _ids(slides: str | None) -> Collection[str] | None:
    """The ids that were asked for."""
    if slides is None:
        return None
    if slides.startswith("@"):
        try:
            lines = Path(slides[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--slides {slides}: {error}") from error
        return {line.strip() for line in lines if line.strip()}
    return {part.strip() for part in slides.split(",") if part.strip()}
