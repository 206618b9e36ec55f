"""`uadray tile`: the tiles of an archive, cut once and kept as a tile set."""

from typing import Any

from uadray.commands.cluster import join_cluster
from uadray.commands.progress import progress
from uadray.screening.estimate import estimate
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.tiles.mask_folder import check_folder
from uadray.tiles.spec import TileSpec
from uadray.tilesets.cutting import tile_set


def run(
    slides_uri: str, spec: TileSpec, *, out: str, tiles_per_slide: int | None, quality: int, seed: int, dry_run: bool
) -> dict[str, Any]:
    """Join the cluster and cut the tiles, or with `dry_run` say from a sample what cutting them would take.

    Args:
        slides_uri: of the manifest.
        spec: which tiles.
        out: folder or s3:// URI for the tile set.
        tiles_per_slide: random tiles of each slide; None takes all.
        quality: of JPEGs that have to be encoded anew.
        seed: of the random choice.
        dry_run: write nothing.

    Returns:
        The summary of `tile_set` or of `estimate`, and `masks_used`.
    """
    rows = read_manifest(slides_uri)
    masks_used = len(check_folder(spec.mask_dir, [row.slide_id for row in rows]).used)
    if dry_run:
        with progress("tile"):
            join_cluster()
            summary = estimate(rows, spec, job="tile", tiles_per_slide=tiles_per_slide, quality=quality, seed=seed)
    else:
        summary = _cut(rows, spec, out=out, tiles_per_slide=tiles_per_slide, quality=quality, seed=seed)
    return summary | {"masks_used": masks_used}


def _cut(rows: list[SlideRow], spec: TileSpec, *, out: str, **options: Any) -> dict[str, Any]:
    with progress("tile") as tick:
        nodes = join_cluster(out_uri=out)
        return tile_set(
            rows, spec, out, nodes=nodes, progress=lambda done, total, tiles: tick(done, total, f"{tiles} tiles"),
            **options,
        )  # fmt: skip
