"""`uadray exporter`: the ledgers of screenings as metrics for Prometheus, until it is stopped."""

import re
import threading
from collections.abc import Sequence

from uadray.commands.console import say
from uadray.commands.stopping import stopping
from uadray.config import load_config
from uadray.errors import InputError
from uadray.monitoring.exporter import serve
from uadray.monitoring.prices import ExporterConfig
from uadray.monitoring.watched import WatchedFolder
from uadray.storage import objects

_NAMED = re.compile(r"(?P<name>[\w.-]{1,100})=(?P<uri>.+)")


def run(outs: Sequence[str], *, config_path: str | None, port: int, host: str) -> None:
    """Read the screenings and answer scrapes until SIGINT or SIGTERM.

    Args:
        outs: folders or s3:// URIs, each as OUT or NAME=OUT.
        config_path: YAML file of an `ExporterConfig`.
        port: to listen on.
        host: address to listen on.

    Raises:
        InputError: no screening is named, two have one name, or the port cannot be had.
    """
    config = load_config(ExporterConfig, config_path) if config_path else ExporterConfig()
    folders = [
        WatchedFolder(name, uri, refresh_s=config.refresh_s, calibrations=config.calibrations)
        for name, uri in named(outs, config.screenings).items()
    ]
    server = serve(folders, config, port=port, host=host)
    with stopping(says=False) as stop:
        for folder in folders:
            threading.Thread(target=folder.run, args=(stop,), name=f"uadray-{folder.name}", daemon=True).start()
        say(f"http://{host}:{server.server_port}/metrics tells of {', '.join(folder.name for folder in folders)}")
        stop.wait()
    server.shutdown()


def named(outs: Sequence[str], screenings: dict[str, str]) -> dict[str, str]:
    """Name -> URI of each screening; the name is the last part of a URI unless it is given.

    Raises:
        InputError: there is none, or two have one name.

    >>> named(["s3://bucket/a/", "b=/data/a"], {"c": "/data/c"})
    {'a': 's3://bucket/a/', 'b': '/data/a', 'c': '/data/c'}
    """
    found: dict[str, str] = {}
    given = [match.group("name", "uri") if (match := _NAMED.fullmatch(out)) else (_last_part(out), out) for out in outs]
    for name, uri in [*given, *screenings.items()]:
        if name in found:
            raise InputError(f"{found[name]} and {uri} are both called {name}; give one a name: NAME={uri}")
        found[name] = uri
    if not found:
        raise InputError("no screening is named: give OUT..., or `screenings` in --config")
    return found


def _last_part(uri: str) -> str:
    return objects.name(objects.resolve(uri, ".").rstrip("/")) or "screening"
