"""`uadray index`: the slides of a folder or bucket, written as a manifest."""

from typing import Any

from uadray.slides.folder_index import index_folder
from uadray.slides.manifest import write_manifest


def run(uri: str, *, out: str) -> dict[str, Any]:
    """List the slides under `uri` and write them to the manifest `out`.

    Returns:
        `manifest`, `slides` (how many) and `left_out`: for each reason the number of files and up to three examples.
    """
    left_out: dict[str, list[str]] = {}
    rows = index_folder(uri, left_out=left_out)
    write_manifest(rows, out)
    counts = {reason: {"count": len(paths), "examples": paths[:3]} for reason, paths in sorted(left_out.items())}
    return {"manifest": out, "slides": len(rows), "left_out": counts}
