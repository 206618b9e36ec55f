"""How a folder of tiles is written so that a run may be killed at any moment and started again.

    tileset.json is put where there is none, "finished": false      the folder is claimed: other options are refused
        |
        |  for each slide:  part-<slide_id>-<version>-<n>.parquet    all shards of the slide
        |                   slides/<slide_id>.json                  the slide is committed; until then it is cut again
        v
    tileset.json is replaced, "finished": true                      every slide was tried: readers may open the set

A commit counts as long as spec, options, label, the version of the slide's file and that of its edited mask are the
same. Shards of another version have other names and stay in the folder, unused. Two runs at once do some slides twice
and write the same.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pydantic import ValidationError

from uadray.errors import InputError, SlideError
from uadray.provenance import fingerprint
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.storage import objects
from uadray.tiles.mask_folder import mask_uri
from uadray.tiles.spec import TileSpec
from uadray.tilesets.records import GROUP_TILES, TILESET, CutOptions, SlideTiles, TileSet, parse_tile_set

REQUESTS = 32
"""Small requests in flight while commits are read."""


def claim(out: str, spec: TileSpec, options: CutOptions) -> TileSpec:
    """Take a folder for the tile set of these options, or find that it was taken for them before.

    Returns:
        How its tiles are cut: as `spec` says; where the folder is older than `TileSpec.max_coarser`, without that.

    Raises:
        InputError: it holds a tile set with other options.
    """
    wanted = TileSet(spec=spec, options=options, fingerprint=_options_fingerprint(spec, options), finished=False)
    if objects.put_if_absent(objects.join(out, TILESET), wanted.model_dump_json(indent=1).encode()):
        return spec
    present = parse_tile_set(out)
    if present.spec.max_coarser == 0:
        spec = spec.model_copy(update={"max_coarser": 0.0})
        wanted = wanted.model_copy(update={"spec": spec, "fingerprint": _options_fingerprint(spec, options)})
    if _options_fingerprint(present.spec, present.options) != wanted.fingerprint:
        before, now = (t.spec.model_dump() | t.options.model_dump() for t in (present, wanted))
        changed = ", ".join(f"{k} {before[k]} there, {now[k]} here" for k in now if before.get(k) != now[k])
        raise InputError(f"{out} holds a tile set with other options ({changed}); use another --out")
    return spec


def committed_slides(rows: Sequence[SlideRow], spec: TileSpec, options: CutOptions, out: str) -> dict[str, SlideTiles]:
    """The slides of `rows` that need not be cut, by slide id."""
    records = objects.list_objects(objects.join(out, "slides"), suffixes=(".json",))
    names = {objects.name(record.uri) for record in records}
    cut_before = [row for row in rows if f"{row.slide_id}.json" in names]
    with ThreadPoolExecutor(REQUESTS) as pool:
        commits = pool.map(lambda row: _valid_commit(row, spec, options, out), cut_before)
        return {row.slide_id: commit for row, commit in zip(cut_before, commits, strict=True) if commit is not None}


def commit(out: str, slide: SlideTiles) -> None:
    """Commit a slide whose shards are all written."""
    objects.write_bytes(_commit_uri(out, slide.slide_id), slide.model_dump_json(indent=1).encode())


def finish(
    out: str, spec: TileSpec, options: CutOptions, *, slides: list[SlideTiles], failed: dict[str, str]
) -> TileSet:
    """Open the set to readers: every slide was tried."""
    prints = [_options_fingerprint(spec, options), *(s.slide_id + ":" + s.fingerprint for s in slides)]
    tile_set = TileSet(
        spec=spec, options=options, fingerprint=fingerprint(prints), finished=True, slides=slides, failed=failed
    )
    objects.write_bytes(objects.join(out, TILESET), tile_set.model_dump_json(indent=1).encode())
    return tile_set


def slide_fingerprint(row: SlideRow, spec: TileSpec, options: CutOptions, *, etag: str) -> str:
    """The fingerprint of spec, options, the version of the slide's file, and that of its edited mask."""
    mask = mask_uri(spec.mask_dir, row.slide_id) if spec.mask_dir else None
    mask_etag = objects.stat(mask).etag if mask and objects.exists(mask) else ""
    return fingerprint([_options_fingerprint(spec, options), etag, mask_etag])


def _options_fingerprint(spec: TileSpec, options: CutOptions) -> str:
    return fingerprint([spec.json_for_ids(), json.dumps(options.model_dump(), sort_keys=True), str(GROUP_TILES)])


def _valid_commit(row: SlideRow, spec: TileSpec, options: CutOptions, out: str) -> SlideTiles | None:
    """A slide's commit; None where it is damaged or the slide has changed since."""
    try:
        slide = SlideTiles.model_validate_json(objects.read_bytes(_commit_uri(out, row.slide_id)))
        etag = slide_etag(row)
    except ValidationError:
        return None
    except SlideError:
        return slide  # the slide's file is gone; its tiles are still good
    is_same = slide.fingerprint == slide_fingerprint(row, spec, options, etag=etag) and slide.label == row.label
    return slide if is_same else None


def _commit_uri(out: str, slide_id: str) -> str:
    return objects.join(out, "slides", f"{slide_id}.json")
