"""`uadray client`: slides and tiles to an endpoint, and what it says of them.

The commands stand here and not in `uadray.cli`, which takes them over as a group.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from zipfile import BadZipFile

import typer

from uadray.commands import console
from uadray.commands.progress import Tick, progress
from uadray.errors import InputError

if TYPE_CHECKING:
    from uadray.client.answers import Batch, Job
    from uadray.client.client import Client

app = typer.Typer(help="Sends slides and tiles to an endpoint, see `uadray serve`.", no_args_is_help=True)

UrlOpt = Annotated[str, typer.Option(envvar="UADRAY_URL", help="Of the endpoint, https://host:8000.")]
TokenFileOpt = Annotated[
    str | None, typer.Option(help="File with the token; else UADRAY_TOKEN, or the file of UADRAY_TOKEN_FILE.")
]
CacertOpt = Annotated[str | None, typer.Option(help="File of the authorities whose certificates are trusted.")]
JobArg = Annotated[str, typer.Argument(metavar="ID", help="Of a job.")]
EitherArg = Annotated[str, typer.Argument(metavar="ID", help="Of a job; with --batch, of a batch.")]
BatchOpt = Annotated[bool, typer.Option("--batch", help="The ID is a batch's.")]
WaitOpt = Annotated[float | None, typer.Option(help="Wait no longer; the work goes on.", min=0)]


@app.command()
def submit(
    url: UrlOpt,
    uris: Annotated[list[str] | None, typer.Argument(metavar="[URI]...", help="Slides; several are a batch.")] = None,
    manifest: Annotated[str | None, typer.Option(help="A batch: manifest that the endpoint reads.")] = None,
    prefix: Annotated[str | None, typer.Option(help="A batch: folder or s3:// prefix that the endpoint reads.")] = None,
    split: Annotated[str | None, typer.Option(help="Only the manifest's slides of this split.")] = None,
    bundle: Annotated[list[str] | None, typer.Option(help="Name of a bundle that decides; may be given twice.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher is sooner; 5 unless given.", min=0, max=9)] = None,
    slide_id: Annotated[str | None, typer.Option(help="Of the slide.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Micrometres per pixel, where the file does not say.")] = None,
    patient_id: Annotated[str | None, typer.Option(help="Of the slide.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key gives the same job.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until all is done.")] = False,
    token_file: TokenFileOpt = None,
    cacert: CacertOpt = None,
) -> None:
    """Send a slide, or a batch of slides."""
    facts = _given(slide_id=slide_id, mpp=mpp, patient_id=patient_id)
    how = _given(bundles=bundle, priority=priority, idempotency_key=idempotency_key)
    is_one = len(uris or ()) == 1 and manifest is prefix is split is None
    if facts and not is_one:
        raise InputError(f"{', '.join(facts)}: of one slide, not of many; a manifest says it of each")
    with _client(url, token_file, cacert) as client:
        if uris and is_one:
            job = client.submit(_absolute(uris[0]), **facts, **how)
            _answer(_waited(client, job.id, is_batch=False) if wait else job, is_final=wait)
            return
        slides = [{"uri": _absolute(uri)} for uri in uris] if uris else None
        batch = client.submit_batch(
            manifest=manifest and _absolute(manifest), prefix=prefix and _absolute(prefix), slides=slides, split=split,
            **how,
        )  # fmt: skip
        _answer(_waited(client, batch.id, is_batch=True) if wait else batch, is_final=wait)


@app.command()
def status(
    url: UrlOpt, job: EitherArg, batch: BatchOpt = False, token_file: TokenFileOpt = None, cacert: CacertOpt = None
) -> None:
    """Say how far a slide or a batch is."""
    with _client(url, token_file, cacert) as client:
        _answer(client.batch(job) if batch else client.status(job), is_final=False)


@app.command()
def wait(
    url: UrlOpt,
    job: EitherArg,
    batch: BatchOpt = False,
    timeout: WaitOpt = None,
    token_file: TokenFileOpt = None,
    cacert: CacertOpt = None,
) -> None:
    """Wait until a slide or a batch is done; exit status 1 where a slide has failed or was cancelled."""
    with _client(url, token_file, cacert) as client:
        _answer(_waited(client, job, is_batch=batch, timeout_s=timeout), is_final=True)


@app.command()
def decision(
    url: UrlOpt,
    job: JobArg,
    tiles: Annotated[str | None, typer.Option(help="Parquet file to write with the tile scores.")] = None,
    bundle: Annotated[str | None, typer.Option(help="Whose tile scores, where several have decided.")] = None,
    token_file: TokenFileOpt = None,
    cacert: CacertOpt = None,
) -> None:
    """Print what was decided of a slide: its record in the output folder."""
    with _client(url, token_file, cacert) as client:
        decided = client.decision(job)
        has_failed = any(each.state == "failed" for each in decided.decisions)
        if tiles is not None and not has_failed:
            file = client.tiles_file(job, bundle=bundle)
            _write(tiles, lambda: Path(tiles).write_bytes(file))
    console.result(decided.record)
    if has_failed:
        raise typer.Exit(1)


@app.command()
def score(
    url: UrlOpt,
    tiles: Annotated[list[str], typer.Argument(metavar="TILE...", help="Files: PNG, JPEG, or one .npz (`tiles`).")],
    bundle: Annotated[str | None, typer.Option(help="Name of the bundle; the endpoint's first unless given.")] = None,
    maps: Annotated[
        str | None, typer.Option(help="File .npz to write with `maps` and the `ids` of their tiles.")
    ] = None,
    token_file: TokenFileOpt = None,
    cacert: CacertOpt = None,
) -> None:
    """Score tiles; exit status 1 where one has no score."""
    import numpy as np

    with _client(url, token_file, cacert) as client:
        scores = client.score(_images(tiles), bundle=bundle, maps=maps is not None)
    if maps is not None:
        drawn = [each for each in scores if each.map is not None]
        arrays = {"ids": np.array([each.id for each in drawn]), "maps": np.array([each.map for each in drawn])}
        _write(maps, lambda: np.savez(maps, **arrays))  # type: ignore[arg-type]  # its names are no options
    console.result({"scores": [{"id": each.id, "score": each.score, "error": each.error} for each in scores]})
    if any(each.score is None for each in scores):
        raise typer.Exit(1)


@app.command()
def cancel(
    url: UrlOpt, job: EitherArg, batch: BatchOpt = False, token_file: TokenFileOpt = None, cacert: CacertOpt = None
) -> None:
    """Cancel a slide, or what of a batch is not decided yet."""
    with _client(url, token_file, cacert) as client:
        _answer(client.cancel_batch(job) if batch else client.cancel(job), is_final=False)


@app.command("list")
def list_jobs(
    url: UrlOpt,
    batch: Annotated[str | None, typer.Option(help="Only those of this batch.")] = None,
    state: Annotated[str | None, typer.Option(help="Only those waiting, running, done or cancelled.")] = None,
    limit: Annotated[int, typer.Option(help="So many at most.", min=1)] = 100,
    token_file: TokenFileOpt = None,
    cacert: CacertOpt = None,
) -> None:
    """List jobs, the newest first."""
    from itertools import islice

    with _client(url, token_file, cacert) as client:
        jobs = list(islice(client.jobs(batch=batch, state=state), limit))
    for job in jobs:
        console.say(f"{job.id}  {job.state:9}  {', '.join(each.decision or each.state for each in job.decisions)}")
    console.result({"slides": [job.record for job in jobs]})


def _client(url: str, token_file: str | None, cacert: str | None) -> "Client":
    from uadray.client.client import Client

    return Client(url, token_file=token_file, cacert=cacert)


def _absolute(uri: str) -> str:
    """A path that is there as one that an endpoint on this machine finds too; everything else as it is."""
    return str(Path(uri).absolute()) if "://" not in uri and Path(uri).exists() else uri


def _waited(client: "Client", job: str, *, is_batch: bool, timeout_s: float | None = None) -> "Job | Batch":
    """The job or the batch, once it has ended; a progress bar until then."""
    with progress("slides" if is_batch else "tiles") as tick:
        if is_batch:
            return client.wait_batch(job, progress=lambda state: _show_batch(tick, state), timeout_s=timeout_s)
        return client.wait(job, progress=_shown_on(tick), timeout_s=timeout_s)


def _shown_on(tick: Tick) -> Callable[["Job"], None]:
    """Shows a job's progress; once it is done its number of tiles is that of the time before."""
    n_tiles = 1

    def show(job: "Job") -> None:
        nonlocal n_tiles
        now = job.progress
        left = f", {now.seconds_left:.0f} s left" if now and now.seconds_left is not None else ""
        n_tiles = now.of if now and now.of else n_tiles
        tick(n_tiles if job.has_ended else min(now.tiles if now else 0, n_tiles), n_tiles, job.state + left)

    return show


def _show_batch(tick: Tick, batch: "Batch") -> None:
    n_open = batch.counts.get("open", 0)
    done = sum(batch.counts.get(state, 0) for state in ("done", "cancelled"))
    notes = (f"{batch.counts[name]} {name}" for name in ("anomalous", "failed") if batch.counts.get(name))
    tick(done, max(1, done + n_open), ", ".join(notes))


def _answer(answer: "Job | Batch", *, is_final: bool) -> None:
    """Print what the endpoint says; exit with status 1 where the work has ended and not all went well."""
    console.result(answer.record)
    if is_final and answer.has_failed:
        raise typer.Exit(1)


def _images(tiles: list[str]) -> Any:
    """Files as they are, or the array of the only one that is a .npz."""
    import numpy as np

    archives = [name for name in tiles if name.endswith(".npz")]
    if not archives:
        return [Path(name) for name in tiles]
    if len(tiles) > 1:
        raise InputError("one .npz, or files of PNG and JPEG, not both")
    try:
        with np.load(tiles[0], allow_pickle=False) as arrays:
            return arrays["tiles"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
        raise InputError(f"{tiles[0]}: no .npz with an array `tiles`: {error}") from error


def _write(path: str, write: Callable[[], object]) -> None:
    try:
        write()
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != []}
