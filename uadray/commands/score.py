"""`uadray score`: tile scores of a tile set or of slides, as one Parquet file."""

import functools
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uadray.cluster.nodes import Nodes
from uadray.cluster.read_tasks import ReadTask
from uadray.cluster.workers import StreamConfig
from uadray.commands.cluster import join_cluster
from uadray.commands.progress import progress, tile_progress
from uadray.detectors.bundle import Bundle, read_bundle
from uadray.errors import InputError, WorkError
from uadray.schemas import TILE_SCORES
from uadray.screening.progress import Progress
from uadray.screening.results import scored_slides
from uadray.screening.slide_result import SlideResult
from uadray.screening.tile_reader import tile_chunks, tile_read_tasks
from uadray.slides.manifest import SlideRow, read_manifest
from uadray.storage import objects
from uadray.tiles.cells import without_cells
from uadray.tilesets import containers
from uadray.tilesets.containers import TileRef

SCORES = pa.schema([*TILE_SCORES, pa.field("label", pa.string())])
"""`TILE_SCORES` and the label of the tile's folder or of its slide. `slide_id` is empty where a tile set does not tell
it."""


def run(bundle_uri: str, *, data: str, out: str, stream: StreamConfig) -> dict[str, Any]:
    """Join the cluster, score every tile of `data` and write `out`; returns the summary of `score`."""
    bundle = read_bundle(bundle_uri)
    with progress("score") as tick:
        nodes = join_cluster(bundle_uris=[bundle_uri])
        return score(
            data, bundle_uri=bundle_uri, bundle=bundle, out=out, config=stream, nodes=nodes,
            progress=tile_progress(tick),
        )  # fmt: skip


def score(
    data: str, *, bundle_uri: str, bundle: Bundle, out: str, config: StreamConfig | None = None,
    nodes: Nodes | None = None, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score every tile of `data` and write `out`, by slide and tile id.

    Args:
        data: URI of a tile set or of a slide manifest.
        bundle_uri: where the bundle is.
        bundle: its description.
        out: URI of a Parquet file.
        config: how the cluster is shared.
        nodes: the nodes of the cluster that are used.
        progress: told of slides, or of parts of a tile set, and of tiles.

    Returns:
        Counts of tiles with and without a score, and the slides that failed, with the reason.

    Raises:
        InputError: no tiles, or two with the same id.
        WorkError: a part of a tile set was lost.
    """
    config = config or StreamConfig()
    failed: dict[str, str] = {}
    scored = functools.partial(_scored, bundles={bundle_uri: bundle}, config=config, nodes=nodes, progress=progress)
    if containers.is_tile_set(data):
        table = _tile_set(data, bundle, scored)
    else:
        table, failed = _slides(read_manifest(data), scored)
    sink = io.BytesIO()
    pq.write_table(table.sort_by([("slide_id", "ascending"), ("tile_id", "ascending")]), sink, compression="zstd")
    objects.write_bytes(out, sink.getvalue())
    n_scored = len(table) - table["score"].null_count
    return {
        "out": out,
        "tiles": len(table),
        "scored": n_scored,
        "unscored": len(table) - n_scored,
        "failed_slides": failed,
    }


def _scored(
    rows: list[SlideRow], *, progress: Progress | None, reads: Callable[..., Any] | None = None, **options: Any
) -> Iterator[SlideResult]:
    """The results of `scored_slides`; tells `progress` of each."""
    ended = tiles = 0

    def tick(note: str = "") -> None:
        if progress is not None:
            progress(ended, len(rows), tiles, note)

    for result in scored_slides(rows, reads=reads, say=tick, **options):
        yield result
        scored = result.of_bundle().tiles
        ended, tiles = ended + 1, tiles + (0 if scored is None else len(scored))
        tick()


ScoredRows = Callable[..., Iterator[SlideResult]]
"""`_scored` with all its options set but `reads`."""


def _tile_set(data: str, bundle: Bundle, scored: ScoredRows) -> pa.Table:
    """Score a tile set; its parts go through the stream in the place of slides, named by their number."""
    containers.check_stain(data, bundle.tiles)
    refs = containers.list_tiles(data)
    _check_ids(data, refs)
    chunks = tile_chunks(refs, bundle.tiles)
    rows = [SlideRow(str(i), data) for i in range(len(chunks))]

    def reads(batch: Sequence[SlideRow]) -> list[ReadTask]:
        return tile_read_tasks(data, [chunks[int(row.slide_id)] for row in batch], bundle.tiles)

    tables: dict[int, pa.Table] = {}
    for result in scored(rows, reads=reads):
        of_bundle = result.of_bundle()
        if of_bundle.tiles is None:
            raise WorkError(f"{data}: {': '.join(of_bundle.failure or ('lost', 'no answer'))}")
        tables[int(result.row.slide_id)] = of_bundle.tiles
    return with_slides_and_labels(pa.concat_tables([without_cells(tables[i]) for i in sorted(tables)]), refs)


def with_slides_and_labels(table: pa.Table, refs: list[TileRef]) -> pa.Table:
    """Scores with the slide and the label of each tile.

    Args:
        table: rows of `TILE_SCORES`, in the order of `refs`: a tile id alone does not identify a tile.
        refs: the tiles that were scored.

    Raises:
        WorkError: the tile ids are not those of `refs`.
    """
    if table["tile_id"].to_pylist() != [ref.tile_id for ref in refs]:
        raise WorkError("the scores are not those of the tiles that were read; this is a fault of uadray")
    column = table.schema.get_field_index("slide_id")
    slides = pa.array([ref.slide_id or "" for ref in refs], pa.string())
    return _labelled(table.set_column(column, table.schema.field(column), slides), [ref.label for ref in refs])


def _check_ids(data: str, refs: list[TileRef]) -> None:
    """Refuse tiles that could not be told apart in the scores."""
    (slide_id, tile_id), times = Counter((ref.slide_id, ref.tile_id) for ref in refs).most_common(1)[0]
    if times > 1:
        of_slide = f" of slide {slide_id}" if slide_id else ""
        raise InputError(
            f"tile set {data}: tile_id {tile_id!r}{of_slide} is there {times} times; ids must tell tiles apart"
        )


def _slides(rows: list[SlideRow], scored: ScoredRows) -> tuple[pa.Table, dict[str, str]]:
    """Score slides; returns rows of `SCORES`, and of the slides that failed the reason by slide id."""
    tables, failed = [SCORES.empty_table()], {}
    for result in scored(rows):
        of_bundle = result.of_bundle()
        if of_bundle.tiles is None:
            failed[result.row.slide_id] = ": ".join(of_bundle.failure or ("lost", ""))
        else:
            tables.append(_labelled(of_bundle.tiles, [result.row.label] * len(of_bundle.tiles)))
    return pa.concat_tables(tables), failed


def _labelled(table: pa.Table, labels: list[str | None]) -> pa.Table:
    return without_cells(table).append_column(SCORES.field("label"), pa.array(labels, pa.string()))
