"""`uadray evaluate`: scores and screenings by their labels; a detector by a protocol; a generator by real tiles."""

from typing import Any, get_args

from uadray.errors import InputError
from uadray.networks.bundle_description import DESCRIPTION, kind_of
from uadray.storage import objects


def run(
    path: str, *, labels: str | None, outlines: str | None, data: str | None, out: str | None, options: dict[str, Any],
    against: str | None = None, budget: int | None = None, protocol: str | None = None, normals: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate what lies at a path.

    Args:
        path: a scores.parquet, the output folder of a screening, or a bundle.
        labels: of scores and screenings, see `uadray.evaluation.report`.
        outlines: of screenings.
        data: real tiles, for bundles; with a protocol the folder that its data lie in.
        out: folder for what is said of a generator, beside its bundle unless given; and for all that a protocol leaves.
        options: of generators, fields of `uadray.evaluation.generator_report.Asked`; what is None is not given.
        against: another screening of the same slides.
        budget: slides that a reader reads a day.
        protocol: YAML file, for detectors, see `uadray.commands.protocol`.
        normals: manifest of slides of a screening that are known to be normal.

    Returns:
        The figures; of scores and screenings without curves and tables by subgroup, which `evaluation.json` has.

    Raises:
        InputError: options that do not go with what lies there, or see the modules named here.
    """
    given = {name: value for name, value in options.items() if value is not None}
    of_slides = {"--labels": labels, "--outlines": outlines, "--against": against, "--budget": budget,
                 "--normals": normals}  # fmt: skip
    match _kind(path):
        case "detector" if protocol is not None:
            others = {f"--{_dashed(name)}": value for name, value in given.items()}
            return _by_protocol(path, protocol, data=data, out=out, refused=of_slides | others)
        case kind if protocol is not None:
            raise InputError(f"--protocol judges a detector's bundle; {path} is {'a ' + kind if kind else 'none'}")
        case "generator" | "classifier" as kind:
            _refuse(path, f"the bundle of a {kind}", of_slides)
            if data is None:
                raise InputError(f"{path} is a {kind}; say which real tiles to judge it by: --data")
            return _generator(path, data, out, given) if kind == "generator" else _classifier(path, data, given)
        case "detector":
            raise InputError(
                f"{path} is a detector; give --protocol, or screen or score with it, and evaluate what that leaves"
            )
    _refuse(path, "no bundle", {"--data": data, "--out": out} | {f"--{_dashed(n)}": v for n, v in given.items()})
    from uadray.evaluation import report

    figures = report.evaluate(
        path, labels=labels, outlines=outlines, against=against, budget=budget, normals=normals
    )  # fmt: skip
    return _without_curves(figures)


def _by_protocol(
    path: str, protocol: str, *, data: str | None, out: str | None, refused: dict[str, Any]
) -> dict[str, Any]:
    from uadray.commands import protocol as command

    _refuse(path, "judged by a protocol", refused)
    if out is None:
        raise InputError("--protocol leaves manifests, scores and a page: give --out, a folder or s3:// URI for them")
    return _without_curves(command.run(path, protocol, out=out, data=data))


def _without_curves(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures that people read in a terminal: without those that are many numbers."""
    left_out = {"curves", "curve", "band", "subgroups"}
    return {
        name: _without_curves(value) if isinstance(value, dict) else value
        for name, value in figures.items()
        if name not in left_out
    }


def _generator(path: str, data: str, out: str | None, given: dict[str, Any]) -> dict[str, Any]:
    from uadray.commands.progress import progress
    from uadray.evaluation.generator_report import Asked, evaluate_generator

    _check(given)
    with progress("evaluate") as tick:
        return evaluate_generator(path, data, Asked(**given), out=out, tick=tick)


def _check(given: dict[str, Any]) -> None:
    """Refuse, before hours of work, what cannot be done here."""
    import torch

    from uadray.evaluation.feature_spaces import SpaceName

    device, features, known = given.get("device", "cpu"), given.get("features"), get_args(SpaceName)
    if device not in ("cpu", "cuda"):
        raise InputError(f"--device {device}: expected cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; use --device cpu")
    if features is not None and features not in known:
        raise InputError(f"--features {features}: expected {' or '.join(known)}")
    if given.get("path_steps") == 1:
        raise InputError("--path-steps 1: a mean needs two at the least; 0 leaves the path length out")
    if "classifier_data" in given and "classifier" not in given:
        raise InputError("--classifier-data goes with --classifier")


def _classifier(path: str, data: str, given: dict[str, Any]) -> dict[str, Any]:
    from uadray.evaluation import pathologist

    known = {"seed", "device"}
    _refuse(path, "the bundle of a classifier", {f"--{_dashed(n)}": v for n, v in given.items() if n not in known})
    return pathologist.on_real_tiles(path, data=data, **given)


def _kind(path: str) -> str | None:
    """Of a bundle; None for what is none."""
    if path.endswith(".parquet") or not objects.exists(objects.join(path, DESCRIPTION)):
        return None
    return kind_of(path)


def _refuse(path: str, what: str, options: dict[str, Any]) -> None:
    """Refuse options that do not go with it."""
    named = [name for name, value in options.items() if value is not None]
    if named:
        raise InputError(f"{path} is {what}, with which {', '.join(named)} does not go")


def _dashed(name: str) -> str:
    return name.replace("_", "-")
