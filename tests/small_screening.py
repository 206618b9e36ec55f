"""A small real screening in this process, without Ray: painted slides, read, scored, judged and committed."""

from collections.abc import Sequence
from pathlib import Path

from uadray.phantoms.archive import write_archive
from uadray.screening import leases
from uadray.screening.assembly import assembled
from uadray.screening.bundles import arranged, calibrated_bundle
from uadray.screening.ledger import open_ledger
from uadray.screening.scorer import PartScorer
from uadray.screening.slide_reader import read_slide
from uadray.screening.verdicts import verdicts_of
from uadray.slides.manifest import SlideRow
from uadray.slides.slide import Mpp

STRANGE_ID = "7 ü%2F?#&+'<b>"
"""A slide id with what URLs and pages give a meaning to."""


def painted_rows(folder: Path) -> list[SlideRow]:
    """Three painted slides, one of them with a strange id, and a file that is none."""
    write_archive(folder, n_slides=3, n_lesion=1, seed=1, size_px=700, mpp=1)
    (folder / "broken.svs").write_bytes(b"no slide")
    names = ["a", "b", STRANGE_ID]
    sites = ["North", "South", None]
    rows = [
        SlideRow(name, str(folder / f"phantom_{i:03d}.tif"), Mpp(1.0), site=sites[i], scanner="S360", stain="H&E")
        for i, name in enumerate(names)
    ]
    return [*rows, SlideRow("broken", str(folder / "broken.svs"), site="North")]


def screen_here(out: str, bundle_uris: Sequence[str], rows: Sequence[SlideRow]) -> None:
    """Screen slides one after the other."""
    bundles = arranged([calibrated_bundle(uri) for uri in bundle_uris])
    scorer = PartScorer({each.uri: each.bundle for each in bundles}, "cpu", threads=1)
    with open_ledger(out, bundles) as book:
        book.begin_round()
        for index, row in enumerate(rows):
            assert leases.claim(book.owner, row.slide_id) == "ours"
            parts: dict[int, dict[str, object]] = {}
            for table in read_slide(index, row, bundles[0].bundle.tiles):
                (part,) = scorer(table).to_pylist()
                parts[part["part"]] = part
                result = assembled(row, part, parts)
            assert result is not None
            assert book.commit(result, verdicts_of(result, bundles))
        book.finish(rows)
