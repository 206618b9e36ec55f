"""Slides are read in a process beside their worker, so that a slide that kills its reader kills nothing else.

The worker writes one line of JSON for a slide, and reads frames: the length, eight bytes, and a row of
`screening.parts.PARTS` as Arrow IPC; a length of 0 ends the slide. Data alone come back, and no objects: what decodes
slides from outside is not trusted. The process ends when its standard input does, so it does not outlive its worker.
"""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict
from typing import IO

import pyarrow as pa

from uadray.screening.parts import from_ipc, to_ipc
from uadray.screening.slide_reader import read_slide
from uadray.slides.manifest import SlideRow
from uadray.tiles.spec import TileSpec

CRASHES = 2
"""Readers that a slide may kill; then it is at fault."""

_LENGTH = 8


class ReaderDiedError(Exception):
    """The process died while it read a slide."""


class ReaderProcess:
    """A process that reads one slide after the other. It is started when it is needed, and again where it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None where none runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def read(self, index: int, row: SlideRow, spec: TileSpec) -> Generator[pa.Table]:
        """The rows of a slide, as `read_slide` yields them. Closed before its end, the process is ended with it.

        Raises:
            ReaderDiedError: it was killed, or crashed.
        """
        process = self._running()
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        is_whole = False
        try:
            _send(process.stdin, {"index": index, "row": asdict(row), "spec": spec.model_dump(mode="json")})
            while (table := _received(process.stdout)) is not None:
                yield table
            is_whole = True
        except (OSError, EOFError) as error:
            raise ReaderDiedError(f"its reader died: {_ending(process)}") from error
        finally:
            if not is_whole:
                self.close()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]  # both are pipes

    def _running(self) -> "subprocess.Popen[bytes]":
        if self.pid is None:
            self.close()
            command = [sys.executable, "-m", "uadray.serving.jobs.reader_process"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process is not None  # noqa: S101 - started above
        return self._process


def _ending(process: "subprocess.Popen[bytes]") -> str:
    with suppress(subprocess.TimeoutExpired):
        status = process.wait(timeout=5)
        return f"signal {-status}" if status < 0 else f"exit status {status}"
    return "it closed its pipe"


def _send(pipe: IO[bytes], request: dict[str, object]) -> None:
    pipe.write(json.dumps(request).encode() + b"\n")
    pipe.flush()


def _received(pipe: IO[bytes]) -> pa.Table | None:
    """The next row; None at the end of the slide."""
    length = int.from_bytes(_exactly(pipe, _LENGTH), "little")
    return from_ipc(_exactly(pipe, length)) if length else None


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return data


def main() -> None:
    """Read slides as they are asked for on standard input."""
    import cv2

    cv2.setNumThreads(1)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the frames
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        for table in read_slide(asked["index"], SlideRow(**asked["row"]), TileSpec.model_validate(asked["spec"])):
            data = to_ipc(table)
            out.write(len(data).to_bytes(_LENGTH, "little"))
            out.write(data)
            out.flush()
        out.write(bytes(_LENGTH))
        out.flush()


if __name__ == "__main__":
    main()
