"""`bench scoring`: tiles a second of each detector, and what precision, memory format, compiling and sharing are worth.

A detector is trained as its configuration says, for a few steps alone: its pace does not depend on what it has learned,
that of a density on how many tiles it keeps, up to its bound. Each variant is timed beside plain scoring in rounds that
take turns, by CPU time where the device is a CPU; a ratio is the median of the rounds' ratios, above 1 where the
variant is faster.

    bfloat16            the stage `score` under autocast, as `--precision bfloat16` has it
    bfloat16 in map too the stage `map` as well
    contiguous          not channels_last
    compiled            every network by torch.compile, with the seconds that compiling took
    whole backbone      to its last layer instead of the deepest that is used: what pruning is worth is 1 / ratio
    2 on one backbone   two detectors of the kind, their features shared; 3 likewise. Above 1 where
                        scoring with all of them is faster than with each by itself

`difference` is the largest of a score, as a share of the mean score of those tiles.
"""

import copy
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from uadray.bench.detector_data import data_folder
from uadray.bench.detector_rows import Row, config_folder, rows
from uadray.bench.detector_training import briefly_trained, resampled
from uadray.detectors.building import build_detector
from uadray.detectors.detector import Detector
from uadray.detectors.precision import LoweredMap, LoweredScore
from uadray.errors import InputError, WorkError
from uadray.networks.backbones import ConvTrunk, EfficientNetLite0, build_backbone, layer_names
from uadray.networks.outline import Networks
from uadray.screening.actor_detectors import ActorDetector, shared_memory, together
from uadray.tiles.images import Pixels
from uadray.tilesets import containers
from uadray.training.config import detector_of

log = logging.getLogger(__name__)

ROUNDS = 3

STEPS, TRAINED_TILES = 10, 512
"""Of the training of each detector; a head of `enlarged_nuclei` makes as many steps as it needs."""

VARIANTS = ("bfloat16", "bfloat16 in map too", "contiguous", "whole backbone", "2 on one backbone", "3 on one backbone")

Run = Callable[[], Any]


def run(*, only: Sequence[str] = (), device: str = "cpu", tiles: int = 64, compiled: bool = False) -> dict[str, Any]:
    """Time every detector that has a configuration file, or a kind.

    Args:
        only: names of rows of `bench detectors`; all unless given.
        device: "cpu" or "cuda".
        tiles: in a round.
        compiled: compile each; a minute each on a CPU.

    Raises:
        InputError: there is no such detector.
    """
    known = {row.name: row for row in rows(config_folder())[0] if row.config is not None}
    if unknown := set(only) - set(known):
        raise InputError(f"bench scoring has no detector {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    read = some_tiles(tiles + TRAINED_TILES)
    answer = []
    for name in only or known:
        try:
            answer.append(figures_of(known[name], read, device=device, n=tiles, compiled=compiled))
        except Exception as error:  # one that needs weights or bundles that are not here costs no other its row
            answer.append({"detector": name, "failed": f"{type(error).__name__}: {error}"[:300]})
        log.info("%s", answer[-1])
    return {"device": device, "threads": torch.get_num_threads(), "tiles": tiles, "rows": answer}


def some_tiles(n: int) -> Pixels:
    """[n, 96, 96, 3] Normal tiles of train, evenly spaced.

    Raises:
        InputError: they are not there.
        WorkError: one cannot be read.
    """
    uri = str(data_folder(mosaics=False) / "pcam" / "train.zip")
    refs = containers.list_tiles(uri, label="normal")
    images = []
    for _, image, error in containers.read_tiles(uri, refs[:: max(1, len(refs) // n)][:n]):
        if image is None:
            raise WorkError(f"{uri}: {error}")
        images.append(image)
    return np.stack(images)


def figures_of(row: Row, tiles: Pixels, *, device: str, n: int, compiled: bool) -> dict[str, Any]:
    """The pace of a detector at the first n of the tiles, and the ratios of its variants; the others are trained on."""
    if row.config is None:
        raise ValueError(f"{row.name} has no configuration")
    config = detector_of(row.config)
    networks = briefly_trained(row.config, tiles[n:], steps=STEPS, device=device)
    pixels = resampled(tiles[:n], row.config.tiles.mpp)

    def built(given: Networks | None = None) -> Detector:
        return build_detector(config, copy.deepcopy(networks) if given is None else given, device=device)

    plain = built()
    expected = plain(pixels).score
    seconds = min(timed(lambda: plain(pixels), device) for _ in range(2))
    figures: dict[str, Any] = {"detector": row.name, "input_px": config.input_px, "ms_per_tile": 1000 * seconds / n}
    figures["tiles_per_s"] = n / seconds
    figures["ratios"] = {}
    for name in VARIANTS:
        made = variant(name, built, networks, pixels, device)
        if made is not None:
            n_detectors = int(name[0]) if name[0] in "23" else 1
            figures["ratios"][name] = n_detectors * ratio(lambda: plain(pixels), made, device)
    for name in VARIANTS[:2]:
        figures[f"difference, {name}"] = relative(lowered(built(), name)(pixels).score, expected)
    if compiled:
        figures |= compiled_figures(built(), plain, pixels, device)
    return figures


def variant(
    name: str, built: Callable[..., Detector], networks: Networks, pixels: Pixels, device: str
) -> Run | None:  # fmt: skip
    """What is timed; None where the detector has no such variant."""
    match name:
        case "bfloat16" | "bfloat16 in map too":
            detector = lowered(built(), name)
            return lambda: detector(pixels)
        case "contiguous":
            other = contiguous(built)
            return lambda: other(pixels)
        case "whole backbone":
            whole = with_whole_backbones(copy.deepcopy(networks))
            if whole is None:
                return None
            unpruned = built(whole)
            return lambda: unpruned(pixels)
        case _:
            return shared([built(moved(networks, number)) for number in range(int(name[0]))], pixels)


def moved(networks: Networks, number: int) -> Networks:
    """A copy whose own weights are others; frozen backbones and what was fitted stay."""
    own = nn.ModuleDict(copy.deepcopy(networks))
    frozen = {
        id(parameter)
        for module in own.modules()
        if isinstance(module, ConvTrunk | EfficientNetLite0)
        for parameter in module.parameters()
    }
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in own.parameters():
            if id(parameter) not in frozen:
                parameter.mul_(1 + 0.01 * number * torch.randn(parameter.shape, generator=generator))
    return {name: own[name] for name in networks}


def lowered(detector: Detector, name: str) -> Detector:
    """Its stages under autocast in bfloat16."""
    detector.score = LoweredScore(detector.score)
    if name != "bfloat16":
        detector.mapping = LoweredMap(detector.mapping)
    return detector


def contiguous(built: Callable[..., Detector]) -> Detector:
    """A detector whose networks and inputs lie channel by channel."""
    made = _Keeping(built)
    for network in made.networks:
        network.to(memory_format=torch.contiguous_format)
    inputs = made.detector.inputs

    def plain(pixels: Pixels) -> Iterator[Tensor]:
        return (x.contiguous() for x in inputs(pixels))

    made.detector.inputs = plain  # type: ignore[method-assign]
    return made.detector


class _Keeping:
    """A detector, and all modules that it is made of."""

    def __init__(self, built: Callable[..., Detector]) -> None:
        self.detector = built()
        self.networks = list(modules_of(self.detector))


def modules_of(thing: object, depth: int = 3) -> Iterator[nn.Module]:
    """The modules among the attributes of a detector's stages."""
    for value in vars(thing).values() if hasattr(thing, "__dict__") else ():
        if isinstance(value, nn.Module):
            yield value
        elif depth and type(value).__module__.startswith("uadray"):
            yield from modules_of(value, depth - 1)


def with_whole_backbones(networks: Networks) -> Networks | None:
    """The networks with each backbone to its last layer; None where there is no backbone, or all is used anyway."""
    found = False
    holder = nn.ModuleDict(networks)
    for name, module in list(holder.named_modules()):
        if isinstance(module, ConvTrunk | EfficientNetLite0):
            whole = unpruned(module)
            found |= len(whole.taps) > len(module.taps)
            parent, _, attribute = name.rpartition(".")
            setattr(holder.get_submodule(parent), attribute, _First(whole, len(module.taps)))
    return {name: holder[name] for name in networks} if found else None


class _First(nn.Module):
    """A network whose last maps nobody wants."""

    def __init__(self, network: nn.Module, n: int) -> None:
        super().__init__()
        self.network, self.n = network, n

    def forward(self, x: Tensor) -> list[Tensor]:
        """The maps that are wanted, all being computed."""
        maps: list[Tensor] = self.network(x)[: self.n]
        return maps


def unpruned(module: ConvTrunk | EfficientNetLite0) -> ConvTrunk | EfficientNetLite0:
    """The same backbone to its last layer, with pinned weights."""
    name = "efficientnet_lite0" if isinstance(module, EfficientNetLite0) else name_of(module)
    layers = [layer for layer in layer_names(name)[-1:] if layer not in module.layers]
    return build_backbone(name, (*module.layers, *layers))


def name_of(trunk: ConvTrunk) -> str:
    """The name of a trunk: of VGG16 and VGG19 the first that has its layers is as deep."""
    names = ("alexnet", "vgg16", "vgg19")
    return next(name for name in names if set(trunk.layers) <= set(layer_names(name)))


def shared(detectors: Sequence[Detector], pixels: Pixels) -> Run | None:
    """Several detectors at the same tiles, as a scoring actor has them; None where they share nothing."""
    pool = ThreadPoolExecutor(1)
    actors = [ActorDetector(each, pixels[:2], pool=pool, n_threads=1) for each in detectors]
    memory = shared_memory(actors)
    if memory is None:
        return None
    return lambda: [answer(pixels) for answer in together(actors, pixels, memory)]


def compiled_figures(detector: Detector, plain: Detector, pixels: Pixels, device: str) -> dict[str, Any]:
    """Seconds that compiling took, and the ratio after it."""
    for network in modules_of(detector):
        network.compile()
    compile_s = timed(lambda: detector(pixels), "cuda")  # by the wall clock: compilers are processes
    gain = ratio(lambda: plain(pixels), lambda: detector(pixels), device)
    difference = relative(detector(pixels).score, plain(pixels).score)
    return {"compile_s": compile_s, "ratio, compiled": gain, "difference, compiled": difference}


def relative(found: Any, expected: Any) -> float:
    """The largest difference of a score, as a share of the mean score."""
    return float(np.abs(found - expected).max() / np.abs(expected).mean())


def ratio(plain: Run, other: Run, device: str) -> float:
    """How many times as fast the other is."""
    other()
    return statistics.median(timed(plain, device) / timed(other, device) for _ in range(ROUNDS))


def timed(work: Run, device: str) -> float:
    """Seconds: of CPU time over threads on a CPU, else by the wall clock."""
    began, cpu_began = time.perf_counter(), time.process_time()
    work()
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return cpu_s / torch.get_num_threads() if device == "cpu" else wall_s
