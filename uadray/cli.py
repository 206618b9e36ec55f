"""The command line: parse, call, print. Heavy imports are inside the commands, so that `--help` is fast."""

import os
import sys
import traceback
from typing import Annotated, Any

import typer

from uadray import __version__
from uadray.commands import console
from uadray.errors import ClusterLostError, UadrayError, WorkError

app = typer.Typer(
    name="uadray",
    help="Screens archives of whole-slide images for tissue that does not look normal. Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(help="Pinned, checksummed backbone weights.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")

BundleArg = Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder or s3:// URI of a trained bundle.")]
SlidesOpt = Annotated[str, typer.Option("--slides", help="Manifest (CSV or Parquet) of slides, local or s3://.")]
SetOpt = Annotated[list[str] | None, typer.Option("--set", help="Override a field: --set detector.width=32.")]
MasksOpt = Annotated[str | None, typer.Option(help="Folder of edited masks, <slide_id>.geojson.")]
WorkersOpt = Annotated[int | None, typer.Option(help="Scoring actors; half of the cluster's CPUs unless given.", min=1)]
GpusOpt = Annotated[float, typer.Option(help="GPUs of each scoring actor.", min=0)]


def main() -> None:
    """Run a command; errors for people become one line and an exit status (2: input, 1: work)."""
    console.set_up_logging()
    arguments = [argument for argument in sys.argv[1:] if argument != "--show-ids"]
    if len(arguments) < len(sys.argv) - 1:  # before or behind the command
        arguments.insert(0, "--show-ids")
    try:
        app(arguments, standalone_mode=True)
    except UadrayError as error:
        _end(error, error.exit_status)
    except KeyboardInterrupt:
        print("uadray: stopped; run the same command again to go on", file=console.err())
        sys.exit(130)
    except SystemExit as end:
        if not end.code:
            console.forget_log()
        raise
    except Exception as error:
        if console.log_file() is None and not console.is_diverted():
            raise  # before any work: a fault of this program, and its place is worth more than a short line
        _end(error, 1)


def _end(error: Exception, status: int) -> None:
    """One line, and where the rest is; a cluster that is gone is not waited for."""
    if console.is_diverted() and (error.__cause__ is not None or not isinstance(error, UadrayError)):
        traceback.print_exception(error)  # goes to the log file
    line = " ".join(f"{'' if isinstance(error, UadrayError) else type(error).__name__ + ': '}{error}".split())[:2000]
    log = console.log_file()
    print(f"uadray: {line}{f' (log: {log})' if log else ''}", file=console.err(), flush=True)
    if isinstance(error, ClusterLostError):
        os._exit(status)
    sys.exit(status)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
    show_ids: Annotated[bool, typer.Option("--show-ids", help="Name slides in logs, which else have hashes.")] = False,
) -> None:
    if show_ids:
        console.show_ids()


@app.command()
def doctor(
    out: Annotated[str | None, typer.Option(help="Folder or s3:// URI that a screening shall write to.")] = None,
) -> None:
    """Say what works on this machine and on the cluster of RAY_ADDRESS, what is missing, and how to fix it."""
    from uadray.commands.doctor import examine

    ok = True
    for finding in examine(out):
        print(f"{'ok     ' if finding.ok else 'MISSING'}  {finding.what}: {finding.message}", flush=True)
        ok = ok and (finding.ok or not finding.required)
    console.result({"ok": ok})
    if not ok:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Folder for slides, bundle and screening.")] = "demo",
    epochs: Annotated[int, typer.Option(help="Of the training; fewer are quicker and find less.", min=1)] = 10,
) -> None:
    """The whole job on slides it makes itself: train, calibrate, screen, evaluate; minutes on a laptop."""
    from uadray.commands.demo import run

    with console.progress("demo") as tick:
        summary = run(out, tick, epochs=epochs)
    console.say(
        f"slide AUROC {summary['slide_auroc']:.3f}, tile AUROC {summary['tile_auroc']:.3f}, "
        f"{summary['tiles_per_second']:.0f} tiles a second\nopen {summary['worklist']}"
    )
    console.result(summary)


@app.command()
def index(
    uri: Annotated[str, typer.Argument(help="Folder or s3:// prefix.")],
    out: Annotated[str, typer.Option(help="Manifest to write, .csv or .parquet.")],
) -> None:
    """List the slides in a folder or bucket as a manifest."""
    from uadray.slides import manifest

    left_out: dict[str, list[str]] = {}
    rows = manifest.index(uri, left_out=left_out)
    manifest.write_manifest(rows, out)
    counts = {reason: {"count": len(paths), "examples": paths[:3]} for reason, paths in sorted(left_out.items())}
    console.result({"manifest": out, "slides": len(rows), "left_out": counts})


@app.command()
def split(
    manifest: Annotated[str, typer.Argument(help="Manifest to divide.")],
    out: Annotated[str, typer.Option(help="Manifest to write, with its split column.")],
    fractions: Annotated[
        str, typer.Option(help="Shares of the patients, by name of the split.")
    ] = "train=0.7,calib=0.15,test=0.15",
    seed: Annotated[str, typer.Option(help="Another seed, another split.")] = "uadray",
    stratify_by: Annotated[list[str] | None, typer.Option(help="site, scanner or stain; may be given twice.")] = None,
    even: Annotated[bool, typer.Option(help="Keep the shares exact; slides that have a split keep it.")] = False,
) -> None:
    """Divide a manifest by patient; stable when slides are added."""
    from uadray.commands.split import split_manifest

    shares = {name: _share(text, fractions) for name, _, text in (part.partition("=") for part in fractions.split(","))}
    console.result(split_manifest(manifest, out, fractions=shares, seed=seed, stratify_by=stratify_by or (), even=even))


@app.command()
def tile(
    slides: SlidesOpt,
    out: Annotated[str, typer.Option(help="Folder or s3:// URI for the tile set.")],
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of a tile.")] = 0.5,
    tile_px: Annotated[int, typer.Option(help="Side of a tile.")] = 256,
    stride_px: Annotated[int | None, typer.Option(help="Distance between tiles; their side unless given.")] = None,
    min_tissue: Annotated[float, typer.Option(help="Least share of tissue in a tile.")] = 0.9,
    tiles_per_slide: Annotated[int | None, typer.Option(help="Random tiles a slide; all unless given.", min=1)] = None,
    quality: Annotated[int, typer.Option(help="JPEG quality where the slide's own bytes cannot be kept.")] = 90,
    seed: Annotated[int, typer.Option(help="Of the random choice.")] = 0,
    mask_dir: MasksOpt = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say tiles, bytes and hours, from a sample.")] = False,
) -> None:
    """Cut tiles once and keep them as Parquet shards; run it again to go on."""
    from uadray.config import parse_config
    from uadray.slides.manifest import read_manifest
    from uadray.tiles.mask_folder import check_folder
    from uadray.tiles.spec import TileSpec

    values = {"mpp": mpp, "tile_px": tile_px, "stride_px": stride_px, "min_tissue": min_tissue, "mask_dir": mask_dir}
    spec, rows = parse_config(TileSpec, values, source="uadray tile"), read_manifest(slides)
    masks_used = len(check_folder(mask_dir, [row.slide_id for row in rows]).used)
    if dry_run:
        from uadray.screening.estimate import estimate

        with console.progress("tile"):
            _join()
            found = estimate(rows, spec, job="tile", tiles_per_slide=tiles_per_slide, quality=quality, seed=seed)
        console.result(found | {"masks_used": masks_used})
        return
    from uadray.tilesets.cutting import tile_set

    with console.progress("tile") as tick:
        nodes = _join(out=out)
        summary = tile_set(
            rows, spec, out, nodes=nodes, tiles_per_slide=tiles_per_slide, seed=seed, quality=quality,
            progress=lambda done, total, tiles: tick(done, total, f"{tiles} tiles"),
        )  # fmt: skip
    console.result(summary | {"masks_used": masks_used})
    if summary["failed"]:
        raise typer.Exit(1)


@app.command()
def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML, see configs/train/.")],
    data: Annotated[str, typer.Option(help="Slide manifest, or a folder, zip or Parquet of tiles.")],
    out: Annotated[str, typer.Option(help="Folder or s3:// URI for the bundle.")],
    overrides: SetOpt = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = False,
    without_ray: Annotated[
        bool, typer.Option("--without-ray", help="Train in this process: a machine that is no cluster.")
    ] = False,
) -> None:
    """Train a detector or a generator on normal slides or tiles; writes a bundle."""
    from uadray.config import load_config
    from uadray.training.config import TrainConfig

    settings = load_config(TrainConfig, config, overrides or [])
    from uadray.commands import train as job

    job.check(settings, data=data, out=out, resume=resume, without_ray=without_ray)
    with console.progress(f"train {settings.name}") as tick:
        nodes = None if without_ray else _join(out=out)
        bundle = job.train(
            settings,
            data=data,
            out=out,
            resume=resume,
            progress=lambda done, total, line: tick(done, total, job.progress_text(line)),
            nodes=nodes,
            without_ray=without_ray,
        )
    console.result({"bundle": out, "id": bundle.id, "metrics": bundle.metrics, "data": _short(bundle.training_data)})


@app.command()
def score(
    bundle: BundleArg,
    data: Annotated[str, typer.Option(help="Slide manifest, or a folder, zip or Parquet of tiles.")],
    out: Annotated[str, typer.Option(help="Parquet file for the tile scores.")],
    score_workers: WorkersOpt = None,
    gpus: GpusOpt = 0,
) -> None:
    """Score every tile of a tile set or of slides."""
    from uadray.commands import score as job
    from uadray.detectors.bundle import read_bundle

    described = read_bundle(bundle)
    config = _stream_config(score_workers, gpus)
    with console.progress("score") as tick:
        nodes = _join(bundle=bundle)
        summary = job.score(
            data, bundle_uri=bundle, bundle=described, out=out, config=config, nodes=nodes,
            progress=lambda done, total, tiles, note="": tick(done, total, _note(tiles, note)),
        )  # fmt: skip
    console.result(summary)
    if summary["failed_slides"] or summary["unscored"]:
        raise typer.Exit(1)


@app.command()
def calibrate(
    bundle: BundleArg,
    slides: SlidesOpt,
    alpha: Annotated[float, typer.Option(help="Share of normal slides that may be called anomalous.")] = 0.05,
    top_fraction: Annotated[float, typer.Option(help="A slide's score is the mean of this share of its tiles.")] = 0.3,
    mask_dir: MasksOpt = None,
    score_workers: WorkersOpt = None,
    gpus: GpusOpt = 0,
) -> None:
    """Score normal slides that were not trained on; from then on the bundle can decide."""
    from uadray.commands import calibrate as job
    from uadray.config import parse_config
    from uadray.decisions.aggregation import AggregationConfig
    from uadray.detectors.bundle import read_bundle
    from uadray.slides.manifest import read_manifest
    from uadray.tiles.mask_folder import check_folder

    described, rows = read_bundle(bundle), read_manifest(slides)
    aggregation = parse_config(AggregationConfig, {"top_fraction": top_fraction}, source="--top-fraction")
    contents = job.check(rows, described, alpha=alpha)
    masks_used = len(check_folder(mask_dir, [row.slide_id for row in rows]).used)
    with console.progress("calibrate") as tick:
        nodes = _join(bundle=bundle)
        made, left_out = job.calibrate(
            rows, bundle_uri=bundle, bundle=described.with_masks(mask_dir), alpha=alpha, aggregation=aggregation,
            config=_stream_config(score_workers, gpus), nodes=nodes, contents=contents,
            progress=lambda done, total, tiles, note="": tick(done, total, _note(tiles, note)),
        )  # fmt: skip
    counts = {"slides": len(rows) - len(left_out), "patients": len(made.scores), "masks_used": masks_used}
    console.result({"calibration": made.id, **counts, "alpha": alpha, "left_out": left_out})
    if left_out:
        raise typer.Exit(1)


@app.command()
def screen(
    bundle: BundleArg,
    slides: SlidesOpt,
    out: Annotated[str, typer.Option(help="Folder or s3:// URI for decisions, scores and the worklist page.")],
    retry_failed: Annotated[bool, typer.Option(help="Try slides again that ended as failed.")] = False,
    mask_dir: MasksOpt = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say tiles, bytes and hours, from a sample.")] = False,
    score_workers: WorkersOpt = None,
    gpus: GpusOpt = 0,
) -> None:
    """Screen an archive, slide by slide; run it again to go on after whatever stopped it."""
    from uadray.commands.calibrate import read_calibration
    from uadray.detectors.bundle import read_bundle
    from uadray.screening import job
    from uadray.slides.manifest import read_manifest
    from uadray.tiles.mask_folder import check_folder

    described = read_bundle(bundle)
    calibrated, rows = read_calibration(bundle, described), read_manifest(slides)
    config = job.ScreenConfig(stream=_stream_config(score_workers, gpus))
    described = described.with_masks(mask_dir)
    masks_used = len(check_folder(mask_dir, [row.slide_id for row in rows]).used)
    if dry_run:
        with console.progress("screen"):
            _join()
            found = job.dry_run(rows, bundle_uri=bundle, bundle=described)
        console.result(found | {"masks_used": masks_used})
        return
    with console.progress("screen") as tick:
        nodes = _join(bundle=bundle, out=out)
        summary = job.screen(
            rows, bundle_uri=bundle, bundle=described, calibration=calibrated, out=out, config=config, nodes=nodes,
            retry_failed=retry_failed,
            progress=lambda done, total, tiles, note="": tick(done, total, _note(tiles, note)),
        )  # fmt: skip
        troubles = nodes.troubles()
    console.result(summary | {"masks_used": masks_used} | ({"node_troubles": troubles} if troubles else {}))
    if summary["open"]:
        raise WorkError(
            f"{summary['open']} of {summary['slides']} slides are open, no fault of theirs: {summary['why_open']}; "
            "the same command tries them again"
        )
    if summary["failed"]:
        n_failed = f"{summary['failed']} of {summary['slides']} slides"
        raise WorkError(f"{n_failed} failed: {summary['why_failed']}; see {summary['worklist']}")


@app.command()
def evaluate(
    path: Annotated[str, typer.Argument(help="scores.parquet of `score`, or the output folder of `screen`.")],
    labels: Annotated[str | None, typer.Option(help="Manifest: label (for a screening) and patient_id.")] = None,
    outlines: Annotated[str | None, typer.Option(help="Folder of GeoJSON outlines; else beside each slide.")] = None,
) -> None:
    """Say how good scores or decisions are, beside what is trivial."""
    from uadray.evaluation.report import evaluate as job

    console.result(job(path, labels=labels, outlines=outlines))


@app.command()
def serve(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML, see configs/serve.yaml.")],
    overrides: SetOpt = None,
) -> None:
    """Serve a bundle over HTTP until stopped."""
    from uadray.config import load_config
    from uadray.serving.schemas import ServeConfig

    settings = load_config(ServeConfig, config, overrides or [])
    from uadray.serving.app import run

    run(settings)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="decode, s3, screen, ingest, memory, nodes or faults.")],
    only: Annotated[str | None, typer.Option(help="Scenarios of `faults`, like 0,a,f; all unless given.")] = None,
) -> None:
    """Measure one thing as a ratio against its limit or a peer, in one run; minutes."""
    from uadray.bench.index import run

    console.result(run(name, only=only.split(",") if only else ()))


@weights_app.command("pull")
def weights_pull(
    names: Annotated[list[str], typer.Argument(help="Names, see `uadray weights list`.")],
    mirror: Annotated[str | None, typer.Option("--from", help="Folder or s3:// URI to copy from.")] = None,
) -> None:
    """Fetch weights into the cache, checked against their SHA-256."""
    from uadray.networks import weights

    console.result({name: str(weights.pull(name, mirror=mirror)) for name in names})


@weights_app.command("verify")
def weights_verify(names: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Check cached weights against their SHA-256."""
    from uadray.networks import weights

    status = {name: str(weights.verify(name)) for name in names or [w.name for w in weights.registry()]}
    console.result(status)
    if "corrupt" in status.values() or (names and "missing" in status.values()):
        raise typer.Exit(1)


@weights_app.command("list")
def weights_list() -> None:
    """List known weights with licence, size and state."""
    from uadray.networks import weights

    for entry in weights.registry():
        print(f"{entry.name:20} {entry.size_bytes / 1e6:8.1f} MB  {weights.verify(entry.name):9} {entry.licence}")


def _join(*, bundle: str | None = None, out: str | None = None) -> Any:
    """Join the cluster, or start one here. Returns the nodes that can be used: each of a cluster is looked at first."""
    from uadray.cluster.connection import connect
    from uadray.cluster.nodes import Nodes, examiner
    from uadray.detectors import bundle as bundles
    from uadray.storage import objects

    connect()
    if not os.environ.get("RAY_ADDRESS"):
        return Nodes()
    reads = [objects.join(bundle, bundles.DESCRIPTION)] if bundle else []
    nodes = Nodes(examiner(out, reads))
    nodes.check()
    return nodes


def _note(tiles: int, note: str) -> str:
    return f"{tiles} tiles{', ' if note else ''}{note}"


def _share(text: str, fractions: str) -> float:
    from uadray.errors import InputError

    try:
        return float(text)
    except ValueError:
        raise InputError(f"--fractions {fractions}: expected name=share,..., like train=0.7,test=0.3") from None


def _stream_config(score_workers: int | None, gpus: float) -> Any:
    from uadray.cluster.stream import StreamConfig

    return StreamConfig(score_workers=score_workers, gpus=gpus)


def _short(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in ("slides", "salt")}
