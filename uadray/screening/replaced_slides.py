"""Which slides have been replaced since they were screened, in few requests.

In S3 a listing tells the etags of a thousand slides at once. It is trusted where it shows a slide unchanged; every
other slide is asked for by itself, as screening does it.
"""

import os.path
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from uadray.errors import AccessError, SlideError
from uadray.screening.leases import REQUESTS
from uadray.slides.identity import slide_etag
from uadray.slides.manifest import SlideRow
from uadray.storage import objects

LISTED_PER_SLIDE = 30
"""A listing is given up after so many objects a slide: a request lists 1,000, and 32 slides are asked for at once."""


def replaced(rows: Sequence[SlideRow], is_same: Callable[[SlideRow, str], bool]) -> list[SlideRow]:
    """Those of `rows` whose file is there and for whose etag `is_same` is false."""
    listed = _listed([row.uri for row in rows if objects.is_s3(row.uri)])
    asked = [row for row in rows if row.uri not in listed or not is_same(row, listed[row.uri])]
    with ThreadPoolExecutor(REQUESTS) as pool:
        changed = list(pool.map(lambda row: _has_changed(row, is_same), asked))
    return [row for row, yes in zip(asked, changed, strict=True) if yes]


def _has_changed(row: SlideRow, is_same: Callable[[SlideRow, str], bool]) -> bool:
    try:
        return not is_same(row, slide_etag(row))
    except SlideError:
        return False  # it is gone: its decision stays


def _listed(uris: Sequence[str]) -> dict[str, str]:
    """Etags of the objects that a listing of the slides' common folder shows, bucket by bucket."""
    buckets = defaultdict(set)
    for uri in uris:
        buckets[uri[len("s3://") :].partition("/")[0]].add(uri)
    etags: dict[str, str] = {}
    for wanted in buckets.values():
        folder = os.path.commonprefix(sorted(wanted)).rpartition("/")[0]  # noqa: RUF071 - cut at a slash
        budget, left = LISTED_PER_SLIDE * len(wanted), len(wanted)
        with suppress(AccessError):  # whoever may read slides need not be allowed to list them
            for seen, info in enumerate(objects.list_objects(folder), 1):
                if info.uri in wanted:
                    etags[info.uri] = info.etag
                    left -= 1
                if seen >= budget or not left:
                    break
    return etags
