"""Screenings of painted slides, in this process and without Ray, whose stain stays as it was calibrated or changes."""

import json
from collections.abc import Sequence
from pathlib import Path

import endpoint_parts
import small_screening

from uadray.decisions.conformal import Calibration, NormalSlide
from uadray.phantoms.layout import PhantomSpec
from uadray.phantoms.pyramid import write_pyramid
from uadray.phantoms.tissue import paint
from uadray.screening.decision_segments import read_decisions
from uadray.slides.manifest import SlideRow
from uadray.slides.slide import Mpp

SITE, SCANNER = "North", "S360"
SIDE_PX = 512


def painted(folder: Path, stains: Sequence[int], *, prefix: str) -> list[SlideRow]:
    """A slide of 0.5 mm for each of these stains (0 or 1), without lesions; other prefixes give other slides."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, stain in enumerate(stains):
        path = folder / f"{prefix}_{i:03d}.tif"
        seed = sum(map(ord, prefix)) * 1000 + i
        image, _ = paint(PhantomSpec(SIDE_PX, SIDE_PX, 1.0, stain=stain, seed=seed))
        write_pyramid(path, image, mpp=1.0)
        rows.append(SlideRow(path.stem, str(path), Mpp(1.0), site=SITE, scanner=SCANNER))
    return rows


def calibrated(folder: Path, rows: Sequence[SlideRow]) -> str:
    """A bundle with random weights, whose calibration keeps the measures of these slides; returns its URI."""
    uri = endpoint_parts.write_calibrated(folder)
    small_screening.screen_here(str(folder / "calibrating"), [uri], rows)
    decisions = read_decisions(str(folder / "calibrating")).table.to_pylist()
    scored = [row for row in decisions if row["state"] == "scored"]
    calibration = Calibration.model_validate_json(Path(uri, "calibration.json").read_bytes())
    normals = [NormalSlide(**{name: row[name] for name in NormalSlide.model_fields}) for row in scored]
    changed = calibration.model_copy(
        update={"scores": tuple(sorted(row["score"] for row in scored)), "normals": tuple(normals)}
    )
    Path(uri, "calibration.json").write_text(json.dumps(changed.model_dump(mode="json")))
    return uri
