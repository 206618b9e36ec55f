"""The folder of a bundle, whatever is in it: `weights.safetensors` and `bundle.json`.

It opens the same from a folder or from s3://, is untrusted input, and nothing in it is a pickle. What `bundle.json`
says of a detector or of a generator stands in `uadray.detectors.bundle` and `uadray.generators.bundle`.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from uadray.errors import InputError
from uadray.networks.bundle_description import CALIBRATION, DESCRIPTION, GALLERY, WEIGHTS
from uadray.networks.outline import MAX_PARAMETERS, Networks
from uadray.networks.weights_file import NetworksInFile, load_networks, save_networks
from uadray.storage import objects

MAX_HEADER_BYTES = 2**20
"""Of `weights.safetensors`: some hundred names and shapes. What follows is as long as the networks are large."""

Description = TypeVar("Description", bound=BaseModel)


def write_folder(uri: str, networks: Networks, describe: Callable[[str], Description]) -> Description:
    """Write weights, then `bundle.json`: a bundle without its description is none.

    A calibration and a gallery that lie there belong to other weights and are removed first.

    Args:
        uri: of the folder.
        networks: by name.
        describe: makes the description when it is told the SHA-256 of the weights.
    """
    for name in (CALIBRATION, GALLERY):
        objects.delete(objects.join(uri, name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        save_networks(path, networks)
        data = path.read_bytes()
    description = describe(hashlib.sha256(data).hexdigest())
    objects.write_bytes(objects.join(uri, WEIGHTS), data)
    objects.write_bytes(objects.join(uri, DESCRIPTION), description.model_dump_json(indent=2).encode())
    return description


@contextmanager
def opened_weights(uri: str, networks: Networks, *, sha256: str) -> Iterator[NetworksInFile]:
    """The networks of a bundle, to be filled from its weights inside this context.

    Args:
        uri: of the folder.
        networks: their shapes, see `uadray.networks.outline`; no more bytes are read than they have.
        sha256: of the file, as the description says.

    Raises:
        InputError: the weights are damaged, too large, or not those that `bundle.json` describes.
    """
    n_bytes = sum(t.numel() * t.element_size() for network in networks.values() for t in network.state_dict().values())
    with _checked_file(uri, sha256=sha256, max_bytes=n_bytes + MAX_HEADER_BYTES) as path:
        yield NetworksInFile(path, networks, source=f"bundle {uri}: {WEIGHTS}")


def load_part(uri: str, networks: Networks, *, sha256: str) -> None:
    """Fill some of the networks of a bundle in place; the others in its file are not looked at.

    Raises:
        InputError: the weights are damaged, not those that `bundle.json` describes, or do not fit.
    """
    with _checked_file(uri, sha256=sha256, max_bytes=4 * MAX_PARAMETERS + MAX_HEADER_BYTES) as path:
        load_networks(path, networks, source=f"bundle {uri}: {WEIGHTS}", is_part=True)


@contextmanager
def _checked_file(uri: str, *, sha256: str, max_bytes: int) -> Iterator[Path]:
    """A bundle's weights as a local file, once they are known to be those of the description."""
    data = objects.read_bytes(objects.join(uri, WEIGHTS), max_bytes=max_bytes)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"bundle {uri}: {WEIGHTS} is not the file that {DESCRIPTION} names (its SHA-256 differs)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        path.write_bytes(data)
        del data
        yield path
