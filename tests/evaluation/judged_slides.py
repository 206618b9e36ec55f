"""Judged slides for tests of what is computed from them."""

from typing import Any

from uadray.evaluation.judged import Judged, judged_slides
from uadray.slides.manifest import SlideRow


def decision(slide_id: str, score: float | None, p_value: float | None, **more: Any) -> dict[str, Any]:
    called = None if p_value is None else "anomalous" if p_value <= 0.1 else "normal"
    row = {
        "slide_id": slide_id, "uri": f"{slide_id}.tif", "state": "scored", "reason": None, "decision": called,
        "score": score, "p_value": p_value, "alpha": 0.1, "note": None,
    }  # fmt: skip
    return row | more


def judged(letters: str, **columns: list[Any]) -> Judged:
    """Slides in the order of the worklist: `A` is anomalous, `N` normal, in capitals where it is called.

    Args:
        letters: one a slide; the first has the highest score.
        columns: fields of the decisions; `patient_id` and `label` are the manifest's.
    """
    of_rows = {name: columns.pop(name) for name in ("patient_id",) if name in columns}
    n = len(letters)
    rows = [
        SlideRow(
            f"s{i}", f"s{i}.tif", label="tumor" if letter in "Aa" else "normal",
            patient_id=of_rows["patient_id"][i] if of_rows else None,
        )
        for i, letter in enumerate(letters)
    ]  # fmt: skip
    decisions = {
        f"s{i}": decision(
            f"s{i}", float(n - i), 0.05 if letter.isupper() else 0.2 + 0.7 * i / n,
            **{name: values[i] for name, values in columns.items()},
        )
        for i, letter in enumerate(letters)
    }  # fmt: skip
    return judged_slides(decisions, rows)
