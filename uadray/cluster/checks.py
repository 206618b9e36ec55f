"""Which checks a machine gets: one that a command is typed on (`uadray doctor`), and a node that is given work."""

from collections.abc import Callable, Sequence
from functools import partial

from uadray.cluster.finding import Finding
from uadray.cluster.machine_checks import cache_disk, cores, gpu, package, same_versions, shared_memory, weights
from uadray.cluster.store_checks import STORE_TIMEOUT_S, Marker, credentials, readable, store


def examine_machine(out_uri: str | None = None) -> list[Finding]:
    """Check this machine; nothing is started, changed or downloaded, except for a small object in `out_uri`."""
    checks: list[Callable[[], Finding]] = [
        partial(package, "ray", "the cluster"),
        partial(package, "torch", "the models"),
        partial(package, "openslide", "reading slides"),
        partial(package, "cv2", "tissue masks"),
        *(cores, shared_memory, cache_disk, gpu, weights, credentials),
    ]
    if out_uri is not None:
        checks.append(partial(store, out_uri))
    return [check() for check in checks]


def examine_node(
    expected: dict[str, str], marker: Marker | None, *, out_uri: str | None, reads: Sequence[str] = (), gpus: int = 0,
    store_timeout_s: float = STORE_TIMEOUT_S,
) -> list[Finding]:  # fmt: skip
    """Check the node that this runs on.

    Args:
        expected: the versions of the machine that asks.
        marker: what the machine that asks has written into `out_uri`.
        out_uri: the folder for results; None checks only whether S3 takes the credentials.
        reads: objects that will be read.
        gpus: how many Ray gives out on this node.
        store_timeout_s: how long to wait for a store.
    """
    checks: list[Callable[[], Finding]] = [partial(same_versions, expected), shared_memory, cache_disk, weights]
    if gpus:
        checks.append(partial(gpu, needed=gpus))
    if reads:
        checks.append(partial(readable, reads, timeout_s=store_timeout_s))
    if out_uri is not None:
        checks.append(partial(store, out_uri, marker, timeout_s=store_timeout_s))
    if not reads and out_uri is None:
        checks.append(partial(credentials, timeout_s=store_timeout_s))
    return [check() for check in checks]
