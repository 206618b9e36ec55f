"""`uadray doctor`: what works here, and on the nodes of a cluster; what is missing, and how to fix it."""

import os
from collections.abc import Iterator

from uadray.cluster import joining
from uadray.cluster.checks import examine_machine
from uadray.cluster.finding import Finding
from uadray.errors import UadrayError


def examine(out_uri: str | None = None) -> Iterator[Finding]:
    """Examine this machine, and the cluster that `RAY_ADDRESS` names with each of its nodes.

    Nothing is started, changed or downloaded, but for small objects in `out_uri`, which are removed.

    Args:
        out_uri: the folder that a screening shall write to.
    """
    yield from examine_machine(out_uri)
    if os.environ.get("RAY_ADDRESS"):
        yield from _cluster(out_uri)


def _cluster(out_uri: str | None) -> Iterator[Finding]:
    from uadray.cluster import connection, nodes, preflight

    yield _token()
    try:
        connection.connect()
        names = {node["NodeID"]: nodes.node_name(node) for node in nodes.living_nodes()}
        findings = preflight.findings(out_uri)
    except UadrayError as error:
        yield Finding("cluster", False, str(error))
        return
    yield Finding("cluster", True, f"{os.environ['RAY_ADDRESS']}, {len(findings)} nodes, {connection.cores()} CPUs")
    for node, of_node in findings.items():
        bad = [finding for finding in of_node if not finding.ok]
        for finding in bad:
            yield Finding(f"{names.get(node, node)}, {finding.what}", False, finding.message, required=finding.required)
        if not bad:
            yield Finding(names.get(node, node), True, "; ".join(finding.message for finding in of_node))


def _token() -> Finding:
    """Whether the cluster asks for a token, and whether others on this machine can read ours."""
    if not joining.token_mode():
        text = "RAY_AUTH_MODE is not token: whoever reaches the cluster's ports may run programs on it"
        return Finding("Ray token", False, f"{text}; see deploy/security.md", required=False)
    file = joining.token_file()
    if file is None:
        return Finding("Ray token", True, "in RAY_AUTH_TOKEN")
    if not os.access(file, os.R_OK):
        text = f"{file} {'cannot be read' if file.exists() else 'does not exist'}"
        return Finding("Ray token", False, f"{text}; copy the head's there ({joining.GET_TOKEN})")
    if file.stat().st_mode & 0o077:
        return Finding("Ray token", False, f"others may read {file}: `chmod 600 {file}`", required=False)
    return Finding("Ray token", True, f"in {file}")
