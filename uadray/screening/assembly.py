"""The scored parts of a slide -> its result, once the last of them is there."""

import json
from itertools import chain
from typing import Any

import pyarrow as pa

from uadray.screening.evidence_places import apart
from uadray.screening.parts import from_ipc
from uadray.screening.slide_result import BundleScores, SlideResult
from uadray.slides.manifest import SlideRow


def assembled(row: SlideRow, part: dict[str, Any], parts: dict[int, dict[str, Any]]) -> SlideResult | None:
    """The slide's result, or None where parts are missing.

    Args:
        row: the slide.
        part: that has come last, a row of `PARTS` from the scorer, or one with part -1.
        parts: all that have come, by number.
    """
    header = json.loads(part["header"])
    if part["part"] < 0:
        failure = (header["reason"], header["message"])
        return SlideResult(row, header=header, failure=failure, read_s=header.get("read_s"))
    if len(parts) < header["n_parts"]:
        return None
    ordered = [parts[i] for i in range(header["n_parts"])]
    headers = [json.loads(part["header"]) for part in ordered]
    return SlideResult(
        row,
        header=headers[0],
        preview=ordered[0]["preview"],
        masks=ordered[0]["masks"],
        scores=tuple(_bundle_scores(i, ordered, headers) for i in range(len(ordered[0]["scores"]))),
        focus=tuple(chain.from_iterable(header.get("focus", ()) for header in headers)),
        read_s=sum(header.get("read_s", 0.0) for header in headers),
        score_s=sum(header.get("score_s", 0.0) for header in headers),
    )


def _bundle_scores(index: int, parts: list[dict[str, Any]], headers: list[dict[str, Any]]) -> BundleScores:
    """One bundle's scores of all parts; its failure where its detector failed at one."""
    failures = [header["failures"][index] for header in headers if header["failures"][index] is not None]
    if failures:
        reason, message = failures[0]
        return BundleScores(failure=(reason, message))
    tables = [*(part["scores"][index] for part in parts), parts[0]["flagged"]]
    evidence = pa.concat_tables([from_ipc(part["evidence"][index]) for part in parts])
    tiles = pa.concat_tables((from_ipc(data) for data in tables if data), promote_options="default")
    return BundleScores(tiles=tiles, evidence=apart(evidence, tiles))
