"""The data of server-sent events (WHATWG HTML, section 9.2.6), out of the lines of a stream."""

from collections.abc import Iterable, Iterator

MAX_CHARS = 2**20
"""More than this in one event is none of ours: the stream is given up."""


def event_data(lines: Iterable[str]) -> Iterator[str]:
    r"""The data of each event that is whole; comments, ids and names of events are passed over.

    >>> list(event_data([": still here", "event: progress", "data: 1", "data: 2", "", "", "data: cut off"]))
    ['1\n2']
    """
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield "\n".join(data)
            data = []
            continue
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        if sum(map(len, data)) > MAX_CHARS:
            return
