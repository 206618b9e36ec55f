"""`uadray serve`: the endpoint, from the start to Ctrl-C or SIGTERM."""

import logging
import os
import signal
import socket
import time
from types import FrameType
from typing import Any, NoReturn

from uadray.cluster.connection import connect
from uadray.commands import console
from uadray.detectors.bundle import read_bundle
from uadray.errors import InputError
from uadray.serving import server
from uadray.serving.app import build_app, token_of
from uadray.serving.config import ServeConfig


def run(config: ServeConfig) -> None:
    """Serve until Ctrl-C or SIGTERM; prints the URL, then one line of JSON, once requests can come.

    Raises:
        InputError: no bundle, a host without a token, a port in use, or more CPUs asked for than there are.
        WorkError: a replica could not be started.
    """
    app = build_app(config)
    is_own_ray = not os.environ.get("RAY_ADDRESS")
    if is_own_ray:
        _check_port(config)
    try:
        connect()
        _on_signals(_stop)  # after Ray, which has a handler of its own
        if is_own_ray:
            server.check_resources(config)
        server.start(app, config)
        _announce(config)
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        logging.getLogger("uadray.serving").info("stopping: requests at work are finished first")
    finally:
        _on_signals(signal.SIG_IGN)
        server.stop()


def _announce(config: ServeConfig) -> None:
    url = f"http://{f'[{config.host}]' if ':' in config.host else config.host}:{config.port}"
    print(f"POST tiles to {url}/v1/tiles/score; Ctrl-C stops", flush=True)
    bundle_id = read_bundle(config.bundle).id
    console.result({"url": url, "bundle_id": bundle_id, "needs_token": bool(token_of(config))})


def _check_port(config: ServeConfig) -> None:
    """Refuse a port that is in use: Serve would say so only in its log.

    Raises:
        InputError: nothing can listen there.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((config.host, config.port))
        except OSError as error:
            raise InputError(f"cannot listen on {config.host} port {config.port}: {error.strerror or error}") from error


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
