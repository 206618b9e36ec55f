"""The folder of edited masks, checked before a job starts: which files will be used, and which match no slide."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from uadray.errors import InputError
from uadray.storage import objects

SUFFIX = ".geojson"

log = logging.getLogger(__name__)

_SHOWN = 3


@dataclass(frozen=True)
class MaskFolder:
    """What lies in a folder of edited masks.

    Attributes:
        used: ids of the slides that have a mask, sorted.
        unknown: names of the files that match no slide, sorted.
    """

    used: tuple[str, ...]
    unknown: tuple[str, ...]


def mask_uri(mask_dir: str, slide_id: str) -> str:
    """Where the edited mask of a slide is, if there is one."""
    return objects.join(mask_dir, f"{slide_id}{SUFFIX}")


def check_folder(mask_dir: str | None, slide_ids: Iterable[str]) -> MaskFolder:
    """Tell which masks will be used, and warn of files that match no slide. Without a folder there are none.

    Raises:
        InputError: there is no such folder, or nothing in it matches a slide: the masks would be ignored.
    """
    if mask_dir is None:
        return MaskFolder((), ())
    if not objects.is_s3(mask_dir) and not objects.local_path(mask_dir).is_dir():
        raise InputError(f"--mask-dir {mask_dir}: there is no such folder")
    ids, used, unknown = set(slide_ids), [], []
    folder = objects.parent(mask_uri(mask_dir, "x"))
    for info in objects.list_objects(mask_dir):
        name = objects.name(info.uri)
        if name.startswith("."):  # left by systems and editors
            continue
        slide_id, place = name.removesuffix(SUFFIX), objects.parent(info.uri)
        if name.endswith(SUFFIX) and slide_id in ids and place == folder:
            used.append(slide_id)
        else:
            unknown.append(name if place == folder else f"{objects.name(place)}/{name}")
    examples = ", ".join(sorted(unknown)[:_SHOWN]) + (", ..." if len(unknown) > _SHOWN else "")
    if not used:
        problem = f"none of its {len(unknown):,} files ({examples}) is" if unknown else "it is empty; a mask is"
        raise InputError(f"--mask-dir {mask_dir}: {problem} named <slide_id>{SUFFIX} after a slide of the manifest")
    if unknown:
        log.warning(
            "--mask-dir %s: %d files match no slide and are not used: %s; expected <slide_id>%s",
            *(mask_dir, len(unknown), examples, SUFFIX),
        )
    return MaskFolder(tuple(sorted(used)), tuple(sorted(unknown)))
