"""Small tile sets of image files, in each kind of container."""

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MEMBERS = ("normal/b.png", "normal/a.png", "tumor/c.PNG", "loose.png")


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image[..., ::-1])[1])


FILES = {name: png(noise(i)) for i, name in enumerate(MEMBERS)}


def write_folder(tmp_path: Path) -> str:
    for name, data in {**FILES, "normal/notes.txt": b"no image"}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    return str(tmp_path / "set")


def write_zip(tmp_path: Path, files: dict[str, bytes] = FILES) -> str:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, "normal/notes.txt": b"no image"}.items():
            archive.writestr(name, data)
    return str(path)


def write_parquet(tmp_path: Path) -> str:
    path = tmp_path / "set.parquet"
    labels = [name.split("/")[0] if "/" in name else None for name in FILES]
    pq.write_table(pa.table({"tile_id": list(FILES), "label": labels, "image": list(FILES.values())}), path)
    return str(path)
