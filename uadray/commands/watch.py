"""`uadray watch`: a screening in the terminal, for people without dashboards."""

import json
import logging

from rich.console import Console
from rich.live import Live

from uadray.commands import console
from uadray.commands.stopping import Stopping, stopping
from uadray.errors import WorkError
from uadray.monitoring.terminal import facts, view
from uadray.monitoring.watched import WatchedFolder
from uadray.storage import objects


def run(out: str, *, every_s: float, once: bool) -> None:
    """Show how far a screening or an endpoint is, until Ctrl-C or SIGTERM; off a terminal a line of JSON each time.

    Args:
        out: folder or s3:// URI.
        every_s: seconds between looks; a large folder is looked at less often.
        once: look once.

    Raises:
        WorkError: with `once`, it cannot be read.
    """
    folder = WatchedFolder(objects.name(objects.resolve(out, ".").rstrip("/")) or out, out, refresh_s=every_s)
    with stopping(says=False) as stop:
        show = _in_terminal if console.out().isatty() else _as_lines
        show(folder, stop, once=once)
    if once and folder.problem:
        raise WorkError(folder.problem)


def _in_terminal(folder: WatchedFolder, stop: Stopping, *, once: bool) -> None:
    screen = Console(file=console.out())
    logging.getLogger("uadray.monitoring").setLevel(logging.CRITICAL)  # what it says is in the view
    with screen.status("reading"):
        folder.refresh()
    if once:
        screen.print(view(folder.name, folder.current, folder.problem))
        return
    with Live(view(folder.name, folder.current, folder.problem), console=screen, auto_refresh=False) as live:
        while not stop.wait(folder.interval_s):
            folder.refresh()
            live.update(view(folder.name, folder.current, folder.problem), refresh=True)


def _as_lines(folder: WatchedFolder, stop: Stopping, *, once: bool) -> None:
    while not stop.is_set():
        folder.refresh()
        for line in facts(folder.name, folder.current, folder.problem):
            console.say(json.dumps(line))
        if once:
            return
        stop.wait(folder.interval_s)
