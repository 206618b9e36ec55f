"""The `curl` lines of deploy/endpoint.md are the routes of the endpoint, each of them."""

import re
from pathlib import Path
from typing import Any

from uadray.serving.access.callers import Access
from uadray.serving.config import ServeConfig
from uadray.serving.exchange.openapi import describe
from uadray.serving.http import build_http
from uadray.serving.jobs.queue import Jobs
from uadray.serving.registry import Registry
from uadray.serving.services import Services

PAGE = Path(__file__).parents[2] / "deploy" / "endpoint.md"


def _documented() -> set[tuple[str, str]]:
    """Method and path of every command."""
    text = PAGE.read_text(encoding="utf-8").split("## Every route", 1)[1]
    block = text.split("```sh\n", 1)[1].split("\n```", 1)[0]
    names = {"S": "/v1/screenings/main", "D": "/v1/screenings/main/slides/SLIDE_ID", "U": ""}
    commands = set()
    for line in block.splitlines():
        for command in re.findall(r"(?:^|; )(c(?:url)? [^#;]*(?:'[^']*'[^#;]*)*)", line):
            path = re.search(r'(?:^|[ "])(\$[USD](?:/[^\s"?;]*)?)', command)
            assert path, command
            method = re.search(r"-X (\w+)", command)
            verb = method[1] if method else "POST" if " -d " in command or "--data" in command else "GET"
            commands.add((verb, re.sub(r"^\$([USD])", lambda match: names[match[1]], path[1])))
    return commands


def _routes(tmp_path: Path) -> set[tuple[str, str]]:
    config = ServeConfig(out=str(tmp_path), bundles={"main": "none"}, insecure=True)
    parts: Any = {"score": None, "views": None, "ready": None}
    services = Services(
        config=config, access=Access(None), registry=Registry(config.out), jobs=Jobs(config.out), **parts
    )  # fmt: skip
    described = describe(build_http(services))["paths"]
    return {(method.upper(), path) for path, methods in described.items() for method in methods}


def _is_of(command: tuple[str, str], route: tuple[str, str]) -> bool:
    """Whether a command asks for a route."""
    path = re.sub(r"\{\w+\}", "[^/]+?", route[1])
    return command[0] == route[0] and re.fullmatch(path, command[1]) is not None


def test_every_route_has_a_command_and_every_command_a_route(tmp_path: Path) -> None:
    commands, routes = _documented(), _routes(tmp_path)
    assert len(routes) > 25
    unknown = {command for command in commands if not any(_is_of(command, route) for route in routes)}
    missing = {route for route in routes if not any(_is_of(command, route) for command in commands)}
    assert (unknown, missing) == (set(), set())
