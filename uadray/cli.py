"""The command line: each command parses its options, calls `uadray.commands`, and prints the answer.

Heavy imports are inside the commands, so that `--help` is fast.
"""

import os
import sys
import traceback
from typing import Annotated, Any

import typer

from uadray import __version__
from uadray.bench.index import OPTIONS as BENCHMARKS
from uadray.cluster.patience import set_patience
from uadray.commands import client, console
from uadray.commands.progress import progress
from uadray.errors import ClusterLostError, UadrayError

app = typer.Typer(
    name="uadray",
    help="Screens archives of whole-slide images for tissue that does not look normal. Research use only.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
weights_app = typer.Typer(help="Pinned, checksummed backbone weights.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")
bundles_app = typer.Typer(help="Ready detectors that come with uadray.", no_args_is_help=True)
app.add_typer(bundles_app, name="bundles")
app.add_typer(client.app, name="client")

BundleArg = Annotated[str, typer.Argument(metavar="BUNDLE", help="Folder or s3:// URI of a trained bundle.")]
BundlesArg = Annotated[list[str], typer.Argument(metavar="BUNDLE...", help="Folders or s3:// URIs of trained bundles.")]
SlidesOpt = Annotated[str, typer.Option("--slides", help="Manifest (CSV or Parquet) of slides, local or s3://.")]
SlidesOrFolderOpt = Annotated[
    str, typer.Option("--slides", help="Manifest (CSV or Parquet) of slides, or their folder; local or s3://.")
]
SplitOpt = Annotated[str | None, typer.Option(help="Only the manifest's slides of this split, see `uadray split`.")]
SetOpt = Annotated[list[str] | None, typer.Option("--set", help="Override a field: --set detector.width=32.")]
MasksOpt = Annotated[str | None, typer.Option(help="Folder of edited masks, <slide_id>.geojson.")]
Bf16Opt = Annotated[
    bool, typer.Option("--bf16", help="Score in bfloat16 where the processor is fast at it and scores stay within 1 %.")
]
WorkersOpt = Annotated[int | None, typer.Option(help="Scoring actors; half of the cluster's CPUs unless given.", min=1)]
GpusOpt = Annotated[float, typer.Option(help="GPUs of each scoring actor.", min=0)]


def main() -> None:
    """Run a command; errors for people become one line and an exit status (2: input, 1: work)."""
    set_patience()
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
            raise  # before any work: a fault of this program, which a traceback explains better than a short line
        _end(error, 1)


def _end(error: Exception, status: int) -> None:
    """Print one line that names the log file, and exit. Where the cluster is lost, exit without waiting for Ray."""
    if console.is_diverted() and (error.__cause__ is not None or not isinstance(error, UadrayError)):
        traceback.print_exception(error)  # goes to the log file
    line = " ".join(f"{'' if isinstance(error, UadrayError) else type(error).__name__ + ': '}{error}".split())[:2000]
    log = console.log_file()
    print(f"uadray: {line}{f' (log: {log})' if log else ''}", file=console.err(), flush=True)
    if isinstance(error, ClusterLostError):
        os._exit(status)
    sys.exit(status)


def _answer(values: dict[str, Any], *, is_good: bool = True) -> None:
    """Print a command's answer; exit with status 1 where its work is not all done."""
    console.result(values)
    if not is_good:
        raise typer.Exit(1)


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
    _answer({"ok": ok}, is_good=ok)


@app.command()
def demo(
    out: Annotated[str, typer.Option(help="Folder for slides, bundle and screening.")] = "demo",
    epochs: Annotated[int, typer.Option(help="Of the training; fewer are quicker and find less.", min=1)] = 4,
) -> None:
    """The whole job on slides it makes itself: train, calibrate, screen, evaluate; minutes on a laptop."""
    from uadray.commands.demo import run

    with progress("demo") as tick:
        summary = run(out, tick, epochs=epochs)
    console.say(
        f"slide AUROC {summary['slide_auroc']:.3f}, tile AUROC {summary['tile_auroc']:.3f}, "
        f"{summary['tiles_per_second']:.0f} tiles a second\nopen {summary['worklist']}"
    )
    console.result(summary)


@app.command()
def exporter(
    outs: Annotated[
        list[str] | None,
        typer.Argument(metavar="OUT...", help="Folders or s3:// URIs of screenings or of an endpoint; also NAME=OUT."),
    ] = None,
    config: Annotated[str | None, typer.Option(help="Prices, budgets, more: configs/monitoring/exporter.yaml.")] = None,
    port: Annotated[int, typer.Option(help="To listen on.", min=0, max=65535)] = 9464,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
) -> None:
    """Tell Prometheus what the ledgers of screenings say, also when their cluster has gone; until it is stopped."""
    from uadray.commands.exporter import run

    run(outs or [], config_path=config, port=port, host=host)


@app.command()
def watch(
    out: Annotated[str, typer.Argument(help="Folder or s3:// URI of a screening or of an endpoint.")],
    every: Annotated[float, typer.Option(help="Seconds between looks.", min=1, max=3600)] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, print, and end.")] = False,
) -> None:
    """Show in the terminal how far a screening is, what fails, what is slow and what drifts; elsewhere as JSON."""
    from uadray.commands.watch import run

    run(out, every_s=every, once=once)


@app.command()
def index(
    uri: Annotated[str, typer.Argument(help="Folder or s3:// prefix.")],
    out: Annotated[str, typer.Option(help="Manifest to write, .csv or .parquet.")],
) -> None:
    """List the slides in a folder or bucket as a manifest."""
    from uadray.commands import index as command

    _answer(command.run(uri, out=out))


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
    from uadray.commands import split as command

    shares = command.parse_fractions(fractions)
    _answer(
        command.split_manifest(manifest, out, fractions=shares, seed=seed, stratify_by=stratify_by or (), even=even)
    )


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
    from uadray.tiles.spec import TileSpec

    values = {"mpp": mpp, "tile_px": tile_px, "stride_px": stride_px, "min_tissue": min_tissue, "mask_dir": mask_dir}
    spec = parse_config(TileSpec, values, source="uadray tile")
    from uadray.commands import tile as command

    summary = command.run(
        slides, spec, out=out, tiles_per_slide=tiles_per_slide, quality=quality, seed=seed, dry_run=dry_run
    )
    _answer(summary, is_good=not summary.get("failed"))


@app.command()
def train(
    configs: Annotated[
        list[str], typer.Argument(metavar="CONFIG...", help="YAML, see configs/train/; several train side by side.")
    ],
    data: Annotated[str, typer.Option(help="Slide manifest, or a folder, zip or Parquet of tiles.")],
    out: Annotated[str, typer.Option(help="Folder or s3:// URI for the bundle; of several, for a folder each.")],
    split: SplitOpt = None,
    overrides: SetOpt = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = False,
    without_ray: Annotated[
        bool, typer.Option("--without-ray", help="Train in this process: a machine that is no cluster.")
    ] = False,
    job: Annotated[str | None, typer.Option(hidden=True, help="Set where several train side by side.")] = None,
) -> None:
    """Train a detector or a generator on normal slides or tiles; writes a bundle. Several: a job and a bundle each."""
    chosen = [f"train_split={split}"] if split is not None else []
    overrides = [*(overrides or []), *chosen]
    if len(configs) > 1:
        from uadray.commands import side_by_side

        summary = side_by_side.run(
            configs, data=data, out=out, overrides=overrides, resume=resume, without_ray=without_ray
        )
        _answer(summary, is_good=not summary["failed"])
        return
    from uadray.commands import train as command
    from uadray.config import load_config
    from uadray.training.config import TrainConfig

    settings = load_config(TrainConfig, configs[0], overrides)
    _answer(command.run(settings, data=data, out=out, resume=resume, without_ray=without_ray, job=job))


@app.command()
def tune(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="YAML, see configs/tune/.")],
    data: Annotated[str, typer.Option(help="Folder, zip or Parquet of normal tiles.")],
    anomalies: Annotated[str, typer.Option(help="Folder, zip or Parquet of anomalous tiles; a label is a kind.")],
    out: Annotated[str, typer.Option(help="Folder or s3:// URI for table, page and best.yaml.")] = "tune",
    n_anomalies: Annotated[int, typer.Option(help="Anomalies that are used, drawn at random.", min=1)] = 20,
    kinds: Annotated[int | None, typer.Option(help="Kinds that they are of; all unless given.", min=1)] = None,
    trials: Annotated[int | None, typer.Option(help="Trials of Optuna; 30 unless given.", min=1, max=1000)] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Every point of the space instead, none stopped early.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Of this run; again to go on.", min=0.01)] = None,
    parallel: Annotated[
        int | None,
        typer.Option(help="Trials at once; with 1, a search that goes on ends as if never stopped.", min=1),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draws of anomalies and trials.", min=0)] = 0,
    overrides: SetOpt = None,
) -> None:
    """Choose a detector's configuration with a few anomalies, by cross-validation; run it again to go on."""
    from uadray.commands import tune as command
    from uadray.config import load_config
    from uadray.training.tune_config import TuneConfig
    from uadray.training.tune_data import Asked

    settings = load_config(TuneConfig, config, overrides or [])
    asked = Asked(n_anomalies, kinds, seed)
    _answer(
        command.run(
            settings, data=data, anomalies=anomalies, out=out, asked=asked, trials=trials, minutes=minutes,
            grid=grid, parallel=parallel,
        )
    )  # fmt: skip


@app.command()
def score(
    bundle: BundleArg,
    data: Annotated[str, typer.Option(help="Slide manifest, or a folder, zip or Parquet of tiles.")],
    out: Annotated[str, typer.Option(help="Parquet file for the tile scores.")],
    score_workers: WorkersOpt = None,
    gpus: GpusOpt = 0,
    bf16: Bf16Opt = False,
) -> None:
    """Score every tile of a tile set or of slides."""
    from uadray.commands import score as command
    from uadray.commands.cluster import stream_config

    summary = command.run(bundle, data=data, out=out, stream=stream_config(score_workers, gpus, is_bf16=bf16))
    _answer(summary, is_good=not summary["failed_slides"] and not summary["unscored"])


@app.command()
def calibrate(
    bundle: BundleArg,
    slides: SlidesOrFolderOpt,
    alpha: Annotated[float, typer.Option(help="Share of normal slides that may be called anomalous.")] = 0.05,
    method: Annotated[
        str,
        typer.Option(
            help="How tiles make a slide's score: grow, smooth, graph, region (with their neighbours), top, maximum, "
            "quantile, fraction, higher_criticism (alone)."
        ),
    ] = "grow",
    top_fraction: Annotated[
        float | None,
        typer.Option(help="The score is the mean of this share of the highest; 0.1, with top 0.3, unless given."),
    ] = None,
    choose: Annotated[
        str | None,
        typer.Option(
            help="Manifest of 5 to 20 labelled anomalous slides: they choose the method; --method if none is better."
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Compare slides with those of their own site, scanner, stain: site,scanner.")
    ] = "",
    smoothed: Annotated[
        bool,
        typer.Option("--smoothed", help="Smoothed p-values: exact at any alpha; a hash of the slide's id breaks ties."),
    ] = False,
    split: SplitOpt = None,
    mask_dir: MasksOpt = None,
    score_workers: WorkersOpt = None,
    gpus: GpusOpt = 0,
    bf16: Bf16Opt = False,
) -> None:
    """Score normal slides that were not trained on; from then on the bundle can decide."""
    from uadray.commands import calibrate as command
    from uadray.commands.cluster import stream_config

    summary = command.run(
        bundle, slides_uri=slides, split=split, alpha=alpha, method=method, top_fraction=top_fraction, by=by,
        smoothed=smoothed, choose=choose, mask_dir=mask_dir, stream=stream_config(score_workers, gpus, is_bf16=bf16),
    )  # fmt: skip
    _answer(summary, is_good=not summary["left_out"])


@app.command()
def screen(
    bundles: BundlesArg,
    slides: SlidesOrFolderOpt,
    out: Annotated[str, typer.Option(help="Folder or s3:// URI for decisions, scores and the worklist page.")],
    retry_failed: Annotated[bool, typer.Option(help="Try slides again that ended as failed.")] = False,
    split: SplitOpt = None,
    mask_dir: MasksOpt = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say tiles, bytes and hours, from a sample.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="--slides is a folder or s3:// prefix: screen slides as they come.")
    ] = False,
    renew_minutes: Annotated[
        float, typer.Option(help="With --follow: between renewals of the worklist.", min=0.01)
    ] = 5,
    settle_seconds: Annotated[
        float, typer.Option(help="With --follow: for so long a file has not changed that is complete.", min=0)
    ] = 30,
    score_workers: WorkersOpt = None,
    viewer: Annotated[
        str | None, typer.Option(help="Page of an endpoint that serves --out: worklist rows link to it.")
    ] = None,
    gpus: GpusOpt = 0,
    bf16: Bf16Opt = False,
) -> None:
    """Screen an archive, slide by slide; run it again to go on after whatever stopped it."""
    from uadray.commands import screen as command
    from uadray.commands.cluster import stream_config

    if follow:
        command.refuse_with_follow({"--split": split, "--mask-dir": mask_dir, "--dry-run": dry_run})
        summary = command.follow_folder(
            bundles, folder_uri=slides, out=out, retry_failed=retry_failed, settle_s=settle_seconds,
            renew_s=60 * renew_minutes, stream=stream_config(score_workers, gpus, is_bf16=bf16), viewer=viewer,
        )  # fmt: skip
        _answer(summary)
        command.check_none_failed(summary)
        return
    summary = command.run(
        bundles, slides_uri=slides, split=split, out=out, retry_failed=retry_failed, mask_dir=mask_dir,
        dry_run=dry_run, stream=stream_config(score_workers, gpus, is_bf16=bf16), viewer=viewer,
    )  # fmt: skip
    _answer(summary)
    command.check_all_decided(summary)


@app.command()
def recalibrate(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or s3:// URI of a screening.")],
    bundle: Annotated[list[str] | None, typer.Option(help="Where a bundle lies by now, if it was moved.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Share of normal slides that may be called anomalous.")] = None,
    by: Annotated[str | None, typer.Option(help="Compare slides by site,scanner,stain; or none.")] = None,
    method: Annotated[str | None, typer.Option(help="How tile scores make a slide's score; needs --normals.")] = None,
    top_fraction: Annotated[float | None, typer.Option(help="The share of the highest that --method takes.")] = None,
    normals: Annotated[
        str | None, typer.Option(help="A screening of normal slides by the same bundles: calibrates anew.")
    ] = None,
    slides: Annotated[str | None, typer.Option(help="Manifest of the normal slides of --normals.")] = None,
    fdr: Annotated[float | None, typer.Option(help="Also list slides with so few false discoveries.")] = None,
    combine: Annotated[str | None, typer.Option(help="Several bundles: by the maximum of scores, or mean.")] = None,
) -> None:
    """Decide a screening anew, without scoring: another calibration, alpha or grouping. Earlier decisions are kept."""
    from uadray.commands.recalibrate import Asked, run

    _answer(run(out, Asked(tuple(bundle or ()), alpha, by, method, top_fraction, normals, slides, fdr, combine)))


@app.command()
def evaluate(
    path: Annotated[
        str,
        typer.Argument(
            help="scores.parquet of `score`, the output folder of `screen`, or a bundle: a detector's with --protocol."
        ),
    ],
    labels: Annotated[str | None, typer.Option(help="Manifest: label (for a screening) and patient_id.")] = None,
    outlines: Annotated[str | None, typer.Option(help="Folder of outlines; else beside each slide.")] = None,
    against: Annotated[str | None, typer.Option(help="Another screening of the same slides, to compare with.")] = None,
    budget: Annotated[int | None, typer.Option(help="Slides that a reader reads a day; 40, say.", min=1)] = None,
    normals: Annotated[
        str | None, typer.Option(help="Manifest of screened slides known to be normal: does the stated rate hold?")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Of a detector: YAML file that says what it is judged on; see configs/protocols.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Of a bundle: real tiles, or a slide manifest; of --protocol: its folder."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Of a generator, 50,000.", min=16, max=1_000_000)] = None,
    draws: Annotated[
        int | None, typer.Option(help="Of so many samples each, 3; their spread is the uncertainty.", min=1, max=100)
    ] = None,
    truncation: Annotated[float | None, typer.Option(help="Towards the mean style; 1 for none.", min=0, max=2)] = None,
    features: Annotated[
        str | None,
        typer.Option(help="inception (FID; `uadray weights pull inception_fid`) or efficientnet_lite0."),
    ] = None,
    path_steps: Annotated[
        int | None, typer.Option(help="Of the path length, 10,000; 0 leaves it out.", min=0, max=1_000_000)
    ] = None,
    label: Annotated[str | None, typer.Option(help="Of the real tiles; that of the training unless given.")] = None,
    classifier: Annotated[str | None, typer.Option(help="Bundle of a classifier that is asked too.")] = None,
    classifier_data: Annotated[
        str | None, typer.Option(help="Labelled tiles that it was not trained on; --data unless given.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is drawn, 0.", min=0)] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cpu unless given.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder for generation.json and page; the bundle's. For --protocol.")
    ] = None,
) -> None:
    """Say how good scores or decisions are, beside what is trivial; or how near a generator comes to real tiles."""
    from uadray.commands import evaluate as command

    options = {
        "samples": samples, "draws": draws, "truncation": truncation, "features": features, "path_steps": path_steps,
        "label": label, "classifier": classifier, "classifier_data": classifier_data, "seed": seed, "device": device,
    }  # fmt: skip
    _answer(
        command.run(
            path,
            labels=labels,
            outlines=outlines,
            data=data,
            out=out,
            options=options,
            against=against,
            budget=budget,
            protocol=protocol,
            normals=normals,
        )
    )


@app.command()
def export(
    out: Annotated[str, typer.Argument(help="Output folder of `screen`, or scores.parquet; local or s3://.")],
    format_name: Annotated[
        str,
        typer.Option(
            "--format", help="wsinfer-csv, geojson, qupath-project, hdf5, ome-tiff, dzi, dicom-pm or dicom-seg."
        ),
    ],
    to: Annotated[str | None, typer.Option(help="Folder or s3:// URI; OUT/exports/FORMAT unless given.")] = None,
    slides: Annotated[str | None, typer.Option(help="Only these ids, with commas; or @FILE with one a line.")] = None,
    threshold: Annotated[
        str | None, typer.Option(help="Tile score above which a tile is abnormal, or a share of normal tiles: 99%.")
    ] = None,
    all_tiles: Annotated[bool, typer.Option("--all-tiles", help="GeoJSON: every tile instead of regions.")] = False,
    anomalous_only: Annotated[bool, typer.Option("--anomalous-only", help="Only slides called anomalous.")] = False,
    coordinates: Annotated[
        str | None,
        typer.Option(help="level0, or qupath: from the corner of the slide's bounds. What suits the format."),
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Where the bundle lies, if no longer where it was.")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="At work at once; the cores, 8 at most.")] = None,
) -> None:
    """Write scores and regions in the formats of other tools; run it again to go on after whatever stopped it."""
    from uadray.commands import export as command

    summary = command.run(
        out, format_name=format_name, to=to, slides=slides, threshold=threshold, all_tiles=all_tiles,
        anomalous_only=anomalous_only, coordinates=coordinates, bundle=bundle, processes=processes,
    )  # fmt: skip
    if line := command.summary_line(summary):
        console.say(line)
    _answer(summary, is_good=not summary["failed"])


@app.command()
def gallery(
    bundle: BundleArg,
    data: Annotated[str | None, typer.Option(help="Tile set or slide manifest that it was trained on.")] = None,
    n: Annotated[int, typer.Option("--n", help="Normal tiles to keep.", min=8, max=4096)] = 1000,
    split: SplitOpt = None,
    seed: Annotated[int, typer.Option(help="Of the choice.", min=0)] = 0,
    remove: Annotated[bool, typer.Option("--remove", help="Only remove the gallery.")] = False,
) -> None:
    """Keep normal tiles in a bundle, to be shown beside abnormal ones: pictures of tissue go with it from then on."""
    from uadray.commands import gallery as command

    _answer(command.run(bundle, data=data, n=n, split=split, seed=seed, is_removed=remove))


@app.command()
def card(
    bundle: BundleArg,
    out: Annotated[str | None, typer.Option(help="File or s3:// URI for the card, .md or .html.")] = None,
    screening: Annotated[
        list[str] | None, typer.Option(help="Evaluated output folder of `screen` with it, for its figures; repeat it.")
    ] = None,
) -> None:
    """Say what a bundle is, for people: what it finds and assumes, its training, its figures, its limits."""
    from uadray.commands import card as command

    values, text = command.run(bundle, out=out, screenings=screening or ())
    if out is None:
        console.say(text)
    _answer(values)


@app.command()
def sample(
    bundle: BundleArg,
    n: Annotated[int, typer.Option("--n", help="Pictures to draw.")] = 64,
    truncation: Annotated[
        float, typer.Option(help="Towards the mean style (0), if it has styles.", min=0, max=2)
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the latents.", min=0)] = 0,
    grid: Annotated[str | None, typer.Option(help="PNG file or s3:// URI for a grid of the first 64.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or s3:// URI for the pictures, as PNG tiles.")] = None,
    interpolate: Annotated[int, typer.Option(help="Steps from picture to picture in a strip beside the grid.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Draw pictures of a trained generator."""
    from uadray.commands import sample as command

    _answer(
        command.run(
            bundle, n=n, truncation=truncation, seed=seed, grid=grid, out=out, interpolate=interpolate, device=device
        )
    )


@app.command()
def serve(
    file: Annotated[str, typer.Argument(metavar="FILE", help="YAML of Ray Serve, see configs/serve/.")],
    overrides: SetOpt = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Without a token; this machine alone is answered.")
    ] = False,
) -> None:
    """Serve slides, tiles and the page over HTTP until stopped."""
    from uadray.serving.deployment_file import load_deployment_file

    settings = load_deployment_file(file, [*(overrides or []), *(["insecure=true"] if insecure else [])])
    from uadray.commands import serve as command

    command.run(settings)


@app.command()
def dashboards(
    out: Annotated[str, typer.Option(help="Folder of the JSON files.")] = "dashboards",
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail where a file is stale.")] = False,
) -> None:
    """Write Grafana's dashboards: archive screening, slowness, endpoint, training, calibration, cost."""
    from uadray.commands import dashboards as command

    _answer(command.run(out, check=check))


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="One of: " + ", ".join(BENCHMARKS) + ".")],
    only: Annotated[
        str | None,
        typer.Option(help="Of its cases, rows, parts or scenarios only these, with commas; each lists its own."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Of the benchmarks of detectors, `stages`, `train`: cpu or cuda; cpu unless given."),
    ] = None,
    slides: Annotated[
        int | None, typer.Option(min=2, help="Of `archive`, `worklist`, 100,000; `follow`, 200; or `partition`, 150.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Of `detectors`, `ablations`, `stains`, `findings`: trainings of each, 1.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Of `detectors`, `one-against-all`, `findings`: of a training, 5, 3, 2. Of `serve`: of the load, 2.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Of benchmarks that go on where they were: folder of their results, ./bench-<name> unless given. "
            "Of `partition`: folder in which Prometheus' data stays."
        ),
    ] = None,
    bundle: Annotated[
        list[str] | None,
        typer.Option(help="Of `detectors`: NAME=URI of a bundle that was trained elsewhere; repeat it for more."),
    ] = None,
    generator: Annotated[
        list[str] | None,
        typer.Option(
            help="Of `detectors`: NAME=URI of a trained generator, a row of each way to map tiles to it; repeat it."
        ),
    ] = None,
    tiles_only: Annotated[bool, typer.Option("--tiles-only", help="Of `detectors`: leave mosaics out.")] = False,
    scoring_minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Of `detectors`: that a row is scored at the most, 5.")
    ] = None,
    valid_tiles: Annotated[
        int | None,
        typer.Option(min=50, help="Of `detectors`, `ablations`, `findings`: score at most so many tiles of valid."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, max=10, help="Of `one-against-all`: of CIFAR-10, normal in their turn, 3.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of `ablations`: steps of each training, 1,000.")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="Of `scoring`: by torch.compile too.")] = False,
    small: Annotated[
        bool, typer.Option("--small", help="Of `ablations`, `train`: with small networks, for two cores.")
    ] = False,
) -> None:
    """Measure one thing as a ratio against its limit or a peer, in one run; minutes."""
    from uadray.bench.index import run

    chosen = only.split(",") if only else ()
    figures = run(
        name, only=chosen, slides=slides, device=device, seeds=seeds, minutes=minutes, out=out, bundle=bundle or (),
        generator=generator or (), tiles_only=tiles_only, scoring_minutes=scoring_minutes, valid_tiles=valid_tiles,
        classes=classes, steps=steps, compiled=compiled, small=small,
    )  # fmt: skip
    _answer(figures)


@weights_app.command("pull")
def weights_pull(
    names: Annotated[list[str], typer.Argument(help="Names, see `uadray weights list`.")],
    mirror: Annotated[str | None, typer.Option("--from", help="Folder or s3:// URI to copy from.")] = None,
) -> None:
    """Fetch weights into the cache, checked against their SHA-256."""
    from uadray.commands import weights as command

    _answer(command.pull(names, mirror=mirror))


@weights_app.command("verify")
def weights_verify(names: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Check cached weights against their SHA-256."""
    from uadray.commands import weights as command

    states, is_good = command.verify(names or [])
    _answer(states, is_good=is_good)


@weights_app.command("list")
def weights_list() -> None:
    """List known weights with licence, size and state."""
    from uadray.commands import weights as command

    for line in command.listing():
        print(line)


@bundles_app.command("list")
def bundles_list() -> None:
    """List the ready detectors: what for, tiles, size, licence, measured figures."""
    from uadray.commands import bundles as command

    known = command.facts()
    for line in command.listing(known):
        console.say(line)
    _answer({"bundles": known})


@bundles_app.command("pull")
def bundles_pull(
    name: Annotated[str, typer.Argument(help="See `uadray bundles list`.")],
    out: Annotated[str, typer.Option(help="Folder or s3:// URI for the bundle.")],
) -> None:
    """Write a ready detector as a bundle; it needs no network, and calibration before it decides."""
    from uadray.commands import bundles as command

    values = command.pull(name, out=out)
    console.say(f"not calibrated yet; next: {values['next']}")
    _answer(values)


@bundles_app.command("pack", hidden=True)
def bundles_pack(
    bundle: BundleArg,
    name: Annotated[str, typer.Option(help="Of the ready detector.")],
    figures: Annotated[str | None, typer.Option(help="JSON file of figures measured with it.")] = None,
) -> None:
    """Make a ready detector of a trained bundle, in the source of uadray; see CONTRIBUTING.md."""
    from uadray.commands import bundles as command

    _answer(command.pack(bundle, name=name, figures=figures))
