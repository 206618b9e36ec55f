"""Where the streams of a group of workers stand, and with what the next group's dataset begins. Plain arithmetic.

Parts of blocks are dealt to the workers in turn, as rows of one dataset (see `uadray.training.ray_dataset`). A group of
as many workers as the one before goes on at the very tiles: its dataset begins with the first block of which a worker
still has tiles, and with as many empty rows as put every row into the hands that had it before; what a worker had used
up it drops. A group of another size begins with that block too, with empty buffers: near that place, and nowhere else,
some tiles are seen twice in this pass.
"""

from dataclasses import dataclass
from typing import Any

from uadray.training.config import TrainConfig
from uadray.training.parts import Place
from uadray.training.passes import endless_passes


@dataclass(frozen=True)
class Beginning:
    """How a group's dataset begins.

    Attributes:
        places: of the workers' streams, by rank, if the group that wrote them was of the same size.
        first_block: that is read.
        empty_rows: that come before it.
        first_row: number of the first of these rows, counted from the training's start.
    """

    places: tuple[Place, ...] = ()
    first_block: int = 0
    empty_rows: int = 0
    first_row: int = 0

    def place(self, rank: int, world: int) -> Place | None:
        """Where the stream of a worker goes on; None where it begins with the dataset."""
        return self.places[rank] if len(self.places) == world else None


def beginning(progress: dict[str, Any] | None, number: int, *, config: TrainConfig, tiles_per_pass: int) -> Beginning:
    """How the dataset of a label begins.

    Args:
        progress: of the last checkpoint; None where there is none. One of an earlier version says how many tiles had
            been taken, and no places.
        number: of the label.
        config: of the training.
        tiles_per_pass: of this label.
    """
    if progress is None:
        return Beginning()
    if not progress.get("places"):
        passes = endless_passes(tiles_per_pass, seed=config.seed, input_px=config.input_px)
        taken = int(progress["tiles_taken"]) // len(config.labels)
        return Beginning(first_block=taken * passes.blocks_per_pass // tiles_per_pass)
    places = tuple(Place(**place) for place in progress["places"][number])
    first = min(places, key=lambda place: (place.block, place.part))
    row = first.row - first.part  # the parts of a block are consecutive rows
    empty = row % len(places)
    return Beginning(places, first.block, empty, row - empty)
