"""`uadray serve`: the endpoint, from the start to Ctrl-C or SIGTERM."""

import logging
import signal
import socket
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from uadray.cluster.connection import connect
from uadray.commands import console
from uadray.errors import InputError
from uadray.serving import server
from uadray.serving.access.callers import endpoint_tokens
from uadray.serving.access.hosts import is_loopback
from uadray.serving.app import check_bundles, resolved
from uadray.serving.deployment_file import DeploymentFile, HttpOptions

log = logging.getLogger("uadray.serving")


def run(file: DeploymentFile) -> None:
    """Serve until Ctrl-C or SIGTERM; prints the URL, then one line of JSON, once requests can come.

    Raises:
        InputError: no bundle, no token, a port in use, or more CPUs asked for than there are.
        WorkError: a replica could not be started.
    """
    file = file.with_args(resolved(file.args, str(Path.cwd())))
    tokens = endpoint_tokens(file.args)
    bundles = check_bundles(file.args)
    _check_tls(file.http_options)
    if server.is_own_ray():
        _check_port(file.http_options)
        server.prepare()
    try:
        connect()
        _on_signals(_stop)  # after Ray, which has a handler of its own
        if server.is_own_ray():
            server.check_resources(file.args)
        is_elsewhere = not server.is_own_ray() and file.args.tokens is None
        server.start(file, tokens.current() if tokens is not None and is_elsewhere else ())
        print(f"the page is at {file.url}/, the API below {file.url}/v1; Ctrl-C stops", flush=True)
        console.result({"url": file.url, "bundles": bundles, "needs_token": tokens is not None, "out": file.args.out})
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        log.info("stopping: requests at work are finished first; slides that are not done stay in the queue")
    finally:
        _on_signals(signal.SIG_IGN)
        server.stop(file.applications[0].name)


def _check_tls(options: HttpOptions) -> None:
    """Refuse files of TLS that are not there; say so where a token would travel in the open.

    Raises:
        InputError: a file is missing.
    """
    for name in ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs"):
        path = getattr(options, name)
        if path is not None and server.is_own_ray() and not Path(path).is_file():
            raise InputError(f"http_options.{name}: no file {path}")
    if not options.ssl_certfile and not is_loopback(options.host):
        log.warning("%s can be reached from elsewhere without TLS: put a proxy with TLS in front", options.host)


def _check_port(options: HttpOptions) -> None:
    """Refuse a port that is in use: Serve would say so only in its log.

    Raises:
        InputError: nothing can listen there.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((options.host, options.port))
        except OSError as error:
            raise InputError(
                f"cannot listen on {options.host} port {options.port}: {error.strerror or error}; "
                "take another by --set http_options.port=NUMBER"
            ) from error


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
