"""The faults of `bench faults`: what goes wrong, on which host, and what the command has to say of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from uadray.bench.command import Command
from uadray.bench.network import Network
from uadray.bench.processes import SCORER, title

HEAD, BAD, GOOD, DESK, STORE = range(5)
"""The hosts: three Ray nodes, the one on which the command runs, and the one of S3."""

KILLER = "s0005"
"""The slide that kills each process that opens it."""

CUT_S = 60.0
"""How long a host is cut off."""

LIMIT_S = 200.0
"""A command that takes longer counts as one that does not end, and is killed."""


@dataclass(frozen=True)
class Scenario:
    """One fault.

    Attributes:
        what: the fault in words.
        fault: what `uadray.bench.sabotage` does on the bad node, or with `everywhere` on all nodes.
        everywhere: see `fault`.
        environment: variables that the bad node has instead of those of the others.
        before: done before the command starts.
        midway: done when a third of the slides is decided; what it returns goes into the figures.
        named: a text that a printed line must have.
        is_named_where: whether that line must have the address of the bad node too (`where` of the figures).
        exit_status: the right one.
    """

    what: str
    fault: str = ""
    everywhere: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    before: Callable[[Network], None] | None = None
    midway: Callable[[Network, Command], dict[str, Any]] | None = None
    named: str = ""
    is_named_where: bool = False
    exit_status: int = 0


def _block_store(network: Network) -> None:
    network.block(BAD, STORE)


def _block_store_midway(network: Network, command: Command) -> dict[str, Any]:
    began_s = command.seconds
    _block_store(network)
    return {"fault_after_s": round(began_s, 1)}


def _cut_off(network: Network, command: Command) -> dict[str, Any]:
    """Cut off the host that scores, for a minute or until the command has ended."""
    has_scorer = [host for host in (BAD, GOOD) if any(title(pid).startswith(SCORER) for pid in network.pids(host))]
    host, began_s = [*has_scorer, BAD][0], command.seconds
    network.unplug(host)
    command.wait(CUT_S)
    network.plug_in(host)
    return {"fault_after_s": round(began_s, 1), "where": network.address(host), "scorer_cut_off": bool(has_scorer)}


def _lose_head(network: Network, command: Command) -> dict[str, Any]:
    """Unplug the head before it is killed, as in a power cut: no message of its end arrives."""
    began_s = command.seconds
    network.unplug(HEAD)
    network.kill(HEAD)
    command.wait(LIMIT_S - began_s)
    return {"fault_after_s": round(began_s, 1), "head_lost_to_end_s": round(command.seconds - began_s, 1)}


SCENARIOS = {
    "0": Scenario("no fault"),
    "a": Scenario(
        "a slide kills each process that opens it",
        fault=f"reader:{KILLER}", everywhere=True, named="crashed", exit_status=1,
    ),
    "b": Scenario(
        "one node has a wrong AWS secret", environment={"AWS_SECRET_ACCESS_KEY": "wrong"}, is_named_where=True
    ),
    "c": Scenario("one node never reaches S3", before=_block_store, is_named_where=True),
    "c2": Scenario("one node loses S3 midway", midway=_block_store_midway, is_named_where=True),
    "d": Scenario("one node has no uadray", fault="missing", named="uadray", is_named_where=True),
    "e": Scenario("the device of one node fails", fault="device:8", everywhere=True, is_named_where=True),
    "f": Scenario("one node is cut off for a minute", midway=_cut_off),
    "g": Scenario("the head is lost; the same command once more on a new cluster", midway=_lose_head, exit_status=1),
}  # fmt: skip
