"""What storage says of many slides in few requests: in S3 a listing tells etag and size of a thousand at once."""

import os.path
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

from uadray.errors import AccessError
from uadray.storage import objects
from uadray.storage.uris import ObjectInfo

LISTED_PER_SLIDE = 30
"""A listing is given up after so many objects a slide: a request lists 1,000, and 32 slides are asked for at once."""


def listed(uris: Iterable[str]) -> dict[str, ObjectInfo]:
    """Those of these objects in S3 that a listing of their common folder shows, bucket by bucket."""
    buckets = defaultdict(set)
    for uri in uris:
        if objects.is_s3(uri):
            buckets[uri[len("s3://") :].partition("/")[0]].add(uri)
    infos: dict[str, ObjectInfo] = {}
    for wanted in buckets.values():
        folder = os.path.commonprefix(sorted(wanted)).rpartition("/")[0]  # noqa: RUF071 - cut at a slash
        with suppress(AccessError):  # whoever may read slides need not be allowed to list them
            found = objects.list_many(folder, at_most=LISTED_PER_SLIDE * len(wanted))
            infos |= {info.uri: info for info in found if info.uri in wanted}
    return infos
