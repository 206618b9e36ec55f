"""`uadray watch`: a screening in the terminal, for people without dashboards."""

import json
import logging
import time
from contextlib import suppress

from rich.console import Console
from rich.live import Live

from uadray.commands import console
from uadray.errors import WorkError
from uadray.monitoring.terminal import facts, view
from uadray.monitoring.watched import WatchedFolder
from uadray.storage import objects


def run(out: str, *, every_s: float, once: bool) -> None:
    """Show how far a screening or an endpoint is, until Ctrl-C; off a terminal a line of JSON each time.

    Args:
        out: folder or s3:// URI.
        every_s: seconds between looks; a large folder is looked at less often.
        once: look once.

    Raises:
        WorkError: with `once`, it cannot be read.
    """
    folder = WatchedFolder(objects.name(objects.resolve(out, ".").rstrip("/")) or out, out, refresh_s=every_s)
    with suppress(KeyboardInterrupt):
        if console.out().isatty():
            _in_terminal(folder, once=once)
        else:
            _as_lines(folder, once=once)
    if once and folder.problem:
        raise WorkError(folder.problem)


def _in_terminal(folder: WatchedFolder, *, once: bool) -> None:
    screen = Console(file=console.out())
    logging.getLogger("uadray.monitoring").setLevel(logging.CRITICAL)  # what it says is in the view
    with screen.status("reading"):
        folder.refresh()
    if once:
        screen.print(view(folder.name, folder.current, folder.problem))
        return
    with Live(view(folder.name, folder.current, folder.problem), console=screen, auto_refresh=False) as live:
        while True:
            time.sleep(folder.interval_s)
            folder.refresh()
            live.update(view(folder.name, folder.current, folder.problem), refresh=True)


def _as_lines(folder: WatchedFolder, *, once: bool) -> None:
    while True:
        folder.refresh()
        for line in facts(folder.name, folder.current, folder.problem):
            console.say(json.dumps(line))
        if once:
            return
        time.sleep(folder.interval_s)
