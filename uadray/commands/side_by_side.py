"""`uadray train` with several configurations: one job a model, side by side, each a process and a bundle of its own.

On a cluster each is a training on Ray that keeps to its share of the CPUs; with `use_gpu` those for which there is no
GPU wait for one. Without Ray they run one after the other. What becomes of one does not touch the others.
"""

import os
import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uadray.commands import train
from uadray.commands.beside import Job
from uadray.commands.children import Child, Message, end_all
from uadray.commands.comparison import PAGE, write_page
from uadray.commands.models_table import Progress, Show, shown
from uadray.commands.stopping import Stopping, stopping
from uadray.config import apply_override, has_field, parse_config, read_mapping
from uadray.errors import InputError, WorkError
from uadray.networks.bundle_description import DESCRIPTION
from uadray.storage import objects
from uadray.training.config import TrainConfig

POLL_S = 0.5


@dataclass
class Model:
    """One of several that are trained.

    Attributes:
        path: of its configuration.
        config: that, with the overrides that it has fields for.
        overrides: these.
        out: its folder.
        progress: how far it is.
        answer: what its command has printed.
    """

    path: str
    config: TrainConfig
    overrides: Sequence[str]
    out: str
    progress: Progress
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its file, and of its folder."""
        return self.progress.name


def run(
    paths: Sequence[str], *, data: str, out: str, overrides: Sequence[str], resume: bool, without_ray: bool
) -> dict[str, Any]:
    """Train all, and write the page that compares them.

    Args:
        paths: of the configurations.
        data: URI of a slide manifest or a tile set.
        out: URI of a folder; gets one for each, by the name of its file, and the page.
        overrides: `a.b=c`, for each that has such a field.
        resume: go on with those that have begun, and leave out those that are done.
        without_ray: one after the other, each in a process of its own.

    Returns:
        Each model's state, bundle and metrics, or why it has failed; and where the page is.

    Raises:
        InputError: a configuration, the data or `out` cannot be used; then none is begun.
    """
    models = _models(paths, out, overrides)
    waiting = [model for model in models if not (resume and _is_done(model))]
    for model in models:
        if model in waiting:
            _check(model, data=data, resume=resume, without_ray=without_ray)
        else:
            model.progress.state, model.progress.why = "done", "trained before"
    waiting = [model for model in waiting if model.progress.state == "waiting"]
    with stopping(says=False) as stop, shown(f"train {len(models)} models") as show:
        given = ["--data", data, *(["--resume"] if resume else []), *(["--without-ray"] if without_ray else [])]
        with _cluster(stop, needed=bool(waiting) and not without_ray) as begun_at:
            job = Job(share=1.0 if without_ray else 1 / max(1, len(waiting)), begun_at=begun_at).model_dump_json()
            arguments = {
                model.name: ["train", model.path, "--out", model.out, *given, *_sets(model), "--job", job]
                for model in waiting
            }
            _train(models, arguments, at_once=1 if without_ray else len(waiting), stop=stop, show=show)
    write_page(out, [(model.name, model.config, model.out, _failure(model)) for model in models])
    return {
        "out": out,
        "page": objects.join(out, PAGE),
        "models": [_row(model) for model in models],
        "done": sum(model.progress.state == "done" for model in models),
        "failed": sum(model.progress.state == "failed" for model in models),
    }


def _models(paths: Sequence[str], out: str, overrides: Sequence[str]) -> list[Model]:
    """Read all configurations.

    Raises:
        InputError: one is wrong, two have one name, or an override is for none.
    """
    names = [Path(path).stem for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{', '.join(twice)}: two configurations have this file name, and each trains into the folder of its name; "
            "rename one"
        )
    values = [read_mapping(path) for path in paths]
    for override in overrides:
        name = override.partition("=")[0]
        if not any(has_field(TrainConfig, each, name) for each in values):
            raise InputError(f"--set {override}: none of {', '.join(names)} has a field {name}")
    return [
        _model(path, each, [o for o in overrides if has_field(TrainConfig, each, o.partition("=")[0])], out)
        for path, each in zip(paths, values, strict=True)
    ]


def _model(path: str, values: dict[str, Any], overrides: Sequence[str], out: str) -> Model:
    for override in overrides:
        apply_override(values, override)
    config = parse_config(TrainConfig, values, source=f"configuration {path}")
    name = Path(path).stem
    return Model(path, config, overrides, objects.join(out, name), Progress(name, config.batch_size * config.workers))


def _check(model: Model, *, data: str, resume: bool, without_ray: bool) -> None:
    """Refuse what can be refused before any is begun; one that has collapsed before says it again.

    Raises:
        InputError: see `run`.
    """
    try:
        train.check(model.config, data=data, out=model.out, resume=resume, without_ray=without_ray)
    except WorkError as error:
        model.progress.state, model.progress.why = "failed", str(error)


def _sets(model: Model) -> Iterator[str]:
    for override in model.overrides:
        yield from ("--set", override)


def _is_done(model: Model) -> bool:
    return objects.exists(objects.join(model.out, DESCRIPTION))


@contextmanager
def _cluster(stop: Stopping, *, needed: bool) -> Iterator[str | None]:
    """Start Ray here for all jobs, unless `RAY_ADDRESS` names a cluster; gives its address."""
    if not needed or os.environ.get("RAY_ADDRESS"):
        yield None
        return
    from uadray.cluster.connection import begun

    with begun(stop.kept) as address:
        yield address


def _train(
    models: Sequence[Model], arguments: dict[str, list[str]], *, at_once: int, stop: Stopping, show: Show
) -> None:
    """Run the commands to their ends, so many at once."""
    messages: queue.Queue[Message] = queue.Queue()
    by_name, left, children = {model.name: model for model in models}, list(arguments), dict[str, Child]()
    try:
        while left or children:
            while left and len(children) < at_once:
                name = left.pop(0)
                children[name] = Child(name, arguments[name], messages)
            show([model.progress for model in models])
            for message in _newest(messages):
                _take(by_name[message.name], message, children)
            if stop.is_set():
                raise KeyboardInterrupt
        show([model.progress for model in models])
    finally:
        end_all(list(children.values()))


def _newest(messages: "queue.Queue[Message]") -> Iterator[Message]:
    """What has come; waits for the first at the longest `POLL_S`."""
    try:
        yield messages.get(timeout=POLL_S)
        while True:
            yield messages.get_nowait()
    except queue.Empty:
        return


def _take(model: Model, message: Message, children: dict[str, Child]) -> None:
    progress = model.progress
    if message.status is None:
        if "done" in message.said and "line" in message.said:
            progress.take(int(message.said["done"]), int(message.said["total"]), message.said["line"])
        else:
            model.answer = message.said
        return
    child = children.pop(model.name)
    progress.state = "done" if message.status == 0 and model.answer else "failed"
    if progress.state == "failed":
        progress.why = child.why()


def _failure(model: Model) -> str:
    return model.progress.why if model.progress.state == "failed" else ""


def _row(model: Model) -> dict[str, Any]:
    row = {"name": model.name, "state": model.progress.state, "out": model.out}
    if model.progress.state == "failed":
        return row | {"why": model.progress.why}
    return row | {name: model.answer[name] for name in ("id", "metrics", "data") if name in model.answer}
