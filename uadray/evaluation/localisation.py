"""How well the tiles of a screening tell where lesions are: FROC and AUPRO, slide by slide."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from uadray.evaluation.aupro import Aupro
from uadray.evaluation.froc import Froc, hits
from uadray.evaluation.lesions import LEVEL_UM, lesion_mask
from uadray.evaluation.outlines import sized
from uadray.evaluation.tile_detections import DetectionConfig, detections
from uadray.slides.manifest import SlideRow


def figures_of_localisation(
    slides: Iterable[tuple[SlideRow, pa.Table, Any]],
    decisions: Mapping[str, Mapping[str, Any]],
    config: DetectionConfig | None = None,
) -> dict[str, Any]:
    """FROC as Camelyon16 defines it, and AUPRO; one slide is in memory at a time.

    Args:
        slides: a slide, its rows of `TILE_SCORES` and the union of its outlines; None where a slide has none, which
            then has no lesions.
        decisions: rows of `SLIDE_DECISIONS` by slide id: resolution and size of the slides.
        config: how tiles become detections.

    Returns:
        `froc` (see `evaluation.froc`; with `detections`, how these are made, and `mask_um`, the pixel of the masks) and
        `aupro` (see `evaluation.aupro`), None where there is nothing to find; `localisation_note` then says why, and
        how many slides were left out since their decisions do not say their resolution.

    Raises:
        InputError: outlines are larger than any slide.
    """
    froc, aupro, without_mpp, config = Froc(), Aupro(), 0, config or DetectionConfig()
    for row, tiles, outline in slides:
        aupro.add_tiles(tiles, outline)
        decision = decisions.get(row.slide_id, {})
        mpp = decision.get("mpp_level0")
        if not mpp:
            without_mpp += 1
            continue
        size = sized(decision.get("width_level0_px"), decision.get("height_level0_px"))
        mask = None if outline is None or outline.is_empty else lesion_mask(
            outline, mpp_level0=mpp, size_level0_px=size, name=f"outlines of {row.slide_id}"
        )  # fmt: skip
        found = detections(tiles, config, mpp_level0=mpp)
        of_slide = hits(found.x_level0_px, found.y_level0_px, found.confidence, mask)
        froc.add(of_slide, isolated=mask.n_isolated if mask else 0, group=row.patient_id)
    figures = froc.figures()
    notes = [] if figures else ["no lesion is larger than isolated tumour cells"]
    if without_mpp:
        notes.append(f"{without_mpp} slides without mpp_level0 in their decisions are not in the FROC")
    if figures:
        figures |= {"detections": config.model_dump(exclude_none=True), "mask_um": LEVEL_UM}
    return {"froc": figures, "aupro": aupro.figures()} | ({"localisation_note": "; ".join(notes)} if notes else {})
