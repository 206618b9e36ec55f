"""`uadray screen`: an archive of slides -> a decision of each bundle for each slide, resumable."""

from collections.abc import Sequence
from typing import Any

from uadray.cluster.workers import StreamConfig
from uadray.commands.cluster import Joining, join_cluster
from uadray.commands.progress import progress, tile_progress
from uadray.commands.stopping import stopping
from uadray.errors import InputError, WorkError
from uadray.reports.viewer_links import checked_viewer
from uadray.screening import follow, job
from uadray.screening.bundles import arranged, calibrated_bundle
from uadray.screening.follower import Pace
from uadray.screening.given_slides import given_slides
from uadray.screening.run_record import is_new
from uadray.screening.summary import pages
from uadray.tiles.mask_folder import check_folder


def run(
    bundle_uris: Sequence[str], *, slides_uri: str, split: str | None, out: str, retry_failed: bool,
    mask_dir: str | None, dry_run: bool, stream: StreamConfig, viewer: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Screen the slides, on a cluster that is joined once there is something to do; or say what that would take.

    Args:
        bundle_uris: of the detectors; each makes a decision of its own for each slide.
        slides_uri: of the manifest, or the folder or s3:// prefix that has the slides.
        split: only the slides of this split; None takes all.
        out: folder or s3:// URI for decisions, scores and the worklist page.
        retry_failed: try slides again that ended as failed.
        mask_dir: folder of edited masks.
        dry_run: write nothing, and say from a sample what it would take.
        stream: how the cluster is shared.
        viewer: address of an endpoint's page that shows the slides, for links of the worklist.

    Returns:
        The summary of `job.screen` or `job.dry_run`, `masks_used`, and `node_troubles` where nodes had any.

    Raises:
        InputError: bundles that are not calibrated or read different tiles; a manifest or mask that cannot be read, or
            no slide in the folder.
    """
    viewer = checked_viewer(viewer) if viewer else None
    bundles = arranged([calibrated_bundle(uri, mask_dir=mask_dir) for uri in bundle_uris])
    rows = given_slides(slides_uri, split=split, out=out)
    masks_used = len(check_folder(mask_dir, [row.slide_id for row in rows]).used)
    with progress("screen") as tick:
        if dry_run:
            join_cluster()
            described = {each.uri: each.bundle for each in bundles}
            return job.dry_run(rows, bundles=described) | {"masks_used": masks_used}
        cluster = Joining(bundle_uris=bundle_uris, out_uri=out, slide_uris=[row.uri for row in rows])
        if is_new(out):
            cluster.prepare()
        summary = job.screen(
            rows, bundles=bundles, out=out, config=job.ScreenConfig(stream=stream), join=cluster.nodes,
            retry_failed=retry_failed, progress=tile_progress(tick), viewer=viewer,
        )  # fmt: skip
        troubles = cluster.troubles()
    return summary | {"masks_used": masks_used} | ({"node_troubles": troubles} if troubles else {})


def follow_folder(
    bundle_uris: Sequence[str], *, folder_uri: str, out: str, retry_failed: bool, settle_s: float, renew_s: float,
    stream: StreamConfig, viewer: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Screen slides as they come into a folder, until SIGINT or SIGTERM.

    Args:
        bundle_uris: of the detectors.
        folder_uri: folder or s3:// prefix.
        out: folder or s3:// URI for decisions, scores and the worklist page.
        retry_failed: try slides again that had failed before.
        settle_s: seconds for which a file must not have changed.
        renew_s: seconds between renewals of the worklist.
        stream: how the cluster is shared.
        viewer: see `run`.

    Returns:
        The summary of `follow.follow`.
    """
    with stopping() as stop, progress("follow", lines=False) as tick:
        return follow.follow(
            folder_uri, bundles=[calibrated_bundle(uri, mask_dir=None) for uri in bundle_uris], out=out, stop=stop,
            join=stop.kept(lambda: join_cluster(bundle_uris=bundle_uris, out_uri=out)),
            pace=Pace(settle_s=settle_s, renew_s=renew_s), config=stream, retry_failed=retry_failed,
            progress=tile_progress(tick), viewer=viewer,
        )  # fmt: skip


def refuse_with_follow(given: dict[str, Any]) -> None:
    """Raise where an option was given that has no meaning for slides that are still to come.

    Raises:
        InputError: which.
    """
    why = {
        "--split": "slides that come have no split; let them come into a folder for each",
        "--mask-dir": "leave --follow out to screen slides again with edited masks",
        "--dry-run": "nobody knows what will come; for what is there, leave --follow out",
    }
    for name, value in given.items():
        if value:
            raise InputError(f"{name} cannot be used with --follow: {why[name]}")


def check_all_decided(summary: dict[str, Any]) -> None:
    """Raise where a slide has failed or is open; nothing is raised for the summary of a dry run.

    Raises:
        WorkError: how many slides, and why.
    """
    if summary.get("open"):
        raise WorkError(
            f"{summary['open']} of {summary['slides']} slides are open, no fault of theirs: {summary['why_open']}; "
            "the same command tries them again"
        )
    check_none_failed(summary)


def check_none_failed(summary: dict[str, Any]) -> None:
    """Raise where a slide has failed.

    Raises:
        WorkError: how many slides, and why.
    """
    if summary.get("failed"):
        n_failed = f"{summary['failed']} of {summary['slides']} slides"
        raise WorkError(f"{n_failed} failed: {summary['why_failed']}; see {pages(summary)}")
