"""`uadray index`: what is listed, and what is counted as left out."""

import os
from pathlib import Path

from command_line import answer, run


def test_index_counts_what_it_leaves_out(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in (b"a.svs", b"b\xe9.svs", b"c.txt"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).touch()
    (folder / "dead.svs").symlink_to("nowhere")
    done = run("index", str(folder), "--out", str(tmp_path / "m.csv"))
    assert done.returncode == 0, done.stderr
    assert answer(done) == {
        "manifest": str(tmp_path / "m.csv"),
        "slides": 1,
        "left_out": {
            "a link that leads nowhere": {"count": 1, "examples": ["dead.svs"]},
            "its name is no UTF-8": {"count": 1, "examples": ["b\\xe9.svs"]},
            "suffix .txt": {"count": 1, "examples": ["c.txt"]},
        },
    }
