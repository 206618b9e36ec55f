"""Asks a Ray cluster whether this machine may join it. A process of its own: Ray ends one that has no token.

    python -m uadray.cluster.probe HOST:PORT        # prints one JSON object as its last line

`problem` is empty, or one of `token`, `silent`, `no_node`, `error`; `ray_version` and `python_version` are those of
the head.
"""

import json
import sys
from typing import Any

NODE_TIMEOUT_S = 10


def main(address: str) -> dict[str, Any]:
    """Ask."""
    from ray.exceptions import AuthenticationError, RpcError

    try:
        client = _client(address)
        found = _versions(client)
    except AuthenticationError as error:
        return {"problem": "token", "detail": str(error)}
    except RpcError as error:
        return {"problem": "silent", "detail": str(error)}
    except Exception as error:  # Ray has many; whoever asks goes on to join, and meets it there
        return {"problem": "error", "detail": f"{type(error).__name__}: {error}"}
    return found | {"problem": "" if _has_node_here(client) else "no_node"}


def _client(address: str) -> Any:
    """Ray's own way to the head (its private names, here and below)."""
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=canonicalize_bootstrap_address(address))


def _versions(client: Any) -> dict[str, Any]:
    from ray._common.usage.usage_lib import get_cluster_metadata

    found = get_cluster_metadata(client) or {}
    return {name: found.get(name) for name in ("ray_version", "python_version")}


def _has_node_here(client: Any) -> bool:
    """Whether a node of the cluster runs on this machine: a driver needs one."""
    from ray._private.services import get_node_to_connect_for_driver

    try:
        get_node_to_connect_for_driver(client, timeout_seconds=NODE_TIMEOUT_S)
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
