"""Which slides have been replaced since they were screened, in few requests.

In S3 a listing tells the etags of a thousand slides at once. It is trusted where it shows a slide unchanged; every
other slide is asked for by itself, as screening does it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from uadray.errors import SlideError
from uadray.screening.leases import REQUESTS
from uadray.screening.slide_listing import listed
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow


def replaced(rows: Sequence[SlideRow], is_same: Callable[[SlideRow, str], bool]) -> list[SlideRow]:
    """Those of `rows` whose file is there and for whose etag `is_same` is false."""
    infos = listed(row.uri for row in rows)
    asked = [row for row in rows if row.uri not in infos or not is_same(row, infos[row.uri].etag)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        changed = list(pool.map(lambda row: _has_changed(row, is_same), asked))
    return [row for row, yes in zip(asked, changed, strict=True) if yes]


def _has_changed(row: SlideRow, is_same: Callable[[SlideRow, str], bool]) -> bool:
    try:
        return not is_same(row, slide_etag(row))
    except SlideError:
        return False  # it is gone: its decision stays
