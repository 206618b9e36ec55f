"""Which slides are judged with a mask that people have edited, and in which version: part of a slide's fingerprint."""

import logging
from collections.abc import Mapping, Sequence

from uadray.screening.decision_segments import Known
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tiles.mask_folder import SUFFIX, mask_uri

log = logging.getLogger(__name__)


def masks_of_run(folder: str) -> dict[str, str]:
    """Etags of the masks that a run uses, by slide."""
    masks = {objects.name(info.uri).removesuffix(SUFFIX): info for info in objects.list_objects(folder)}
    return {key: info.etag for key, info in masks.items() if info.uri == mask_uri(folder, key)}


def kept_masks(rows: Sequence[SlideRow], known: Mapping[str, Known]) -> dict[str, str]:
    """Etags of the masks with which slides were decided: a run without masks leaves such decisions as they are."""
    masks = {row.slide_id: known[row.slide_id].mask for row in rows}
    kept = {slide_id: mask for slide_id, mask in masks.items() if mask}
    if kept:
        log.warning(
            "%d slides were decided with edited masks and stay as they are; name the folder by --mask-dir to use it",
            len(kept),
        )
    return kept
