"""The slides that a command is given: those of a manifest, or all that lie in a folder or below."""

import logging

from uadray.errors import InputError
from uadray.screening.arrivals import Arrivals
from uadray.screening.decision_segments import read_decisions
from uadray.screening.run_record import is_new
from uadray.slides.folder_index import SLIDE_SUFFIXES
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.storage import objects

log = logging.getLogger(__name__)

MANIFESTS = (".csv", ".tsv", ".txt", ".parquet", ".xlsx")


def given_slides(uri: str, *, split: str | None = None, out: str | None = None) -> list[SlideRow]:
    """The slides of a manifest or of a folder.

    Ids of a folder's slides are those of `screen --follow`: they have the suffix, and do not change when others come.

    Args:
        uri: of a manifest, or a folder or s3:// prefix.
        split: only the manifest's slides of this split; None takes all.
        out: of a screening to go on with: slides that are decided in it keep their ids.

    Raises:
        InputError: the manifest cannot be used, there is no slide in the folder, or it is to have a split.
    """
    if not is_folder(uri):
        return read_manifest(uri, split=split)
    if split is not None:
        raise InputError(
            f"{uri}: --split takes a manifest: `uadray index` makes one of a folder, `uadray split` divides"
        )
    arrivals = Arrivals(uri, settle_s=0, ids=_ids_in(out) if out is not None else {})
    rows = sorted((arrival.row for arrival in arrivals.look()), key=lambda row: row.uri)
    others = "; ".join(f"{count} {reason}" for reason, count in arrivals.left_out.most_common(5))
    if not rows:
        known = ", ".join(SLIDE_SUFFIXES)
        raise InputError(f"{uri}: no slides there ({known}, DICOM)" + (f"; left out: {others}" if others else ""))
    log.info("%d slides in the folder%s", len(rows), f"; left out: {others}" if others else "")
    return rows


def is_folder(uri: str) -> bool:
    """Whether slides are to be looked for here: in S3, which has no folders, wherever there is no file."""
    return not is_file(uri) if objects.is_s3(uri) else objects.local_path(uri).is_dir()


def is_file(uri: str) -> bool:
    """Whether this is a file, or is called like a manifest."""
    if uri.endswith("/"):
        return False
    is_bucket = objects.is_s3(uri) and "/" not in uri.removeprefix("s3://")
    return uri.lower().endswith(MANIFESTS) or (not is_bucket and objects.exists(uri))


def _ids_in(out: str) -> dict[str, str]:
    """URI -> id of the slides that are decided in a screening."""
    if is_new(out):
        return {}
    decided = read_decisions(out).table
    return dict(zip(decided["uri"].to_pylist(), decided["slide_id"].to_pylist(), strict=True))
