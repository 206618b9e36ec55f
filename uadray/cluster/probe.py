"""Asks a Ray cluster whether this machine may join it; a process by itself, since Ray ends one that has no token.

    python -m uadray.cluster.probe HOST:PORT        # prints one JSON object as its last line

`problem` is empty or one of `token`, `silent`, `no_node`, `error`; `ray_version` and `python_version` are those of the
head. Ray has no public way to ask any of this: each private name that is used stands in one function here.
"""

import json
import sys
from typing import Any

NODE_TIMEOUT_S = 10


def main(address: str) -> dict[str, Any]:
    """Ask the head at `address`."""
    from ray.exceptions import AuthenticationError, RpcError

    try:
        client = head_client(address)
        versions = head_versions(client)
    except AuthenticationError as error:
        return {"problem": "token", "detail": str(error)}
    except RpcError as error:
        return {"problem": "silent", "detail": str(error)}
    except Exception as error:  # of many kinds: whoever asked goes on to join, and meets it there
        return {"problem": "error", "detail": f"{type(error).__name__}: {error}"}
    return versions | {"problem": "" if has_node_here(client) else "no_node"}


def head_client(address: str) -> Any:
    """A connection to the head (private: `canonicalize_bootstrap_address`, `GcsClient`)."""
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    return GcsClient(address=canonicalize_bootstrap_address(address))


def head_versions(client: Any) -> dict[str, Any]:
    """The versions of Ray and Python on the head; None where it does not tell (private: `get_cluster_metadata`)."""
    from ray._common.usage.usage_lib import get_cluster_metadata

    metadata = get_cluster_metadata(client) or {}
    return {name: metadata.get(name) for name in ("ray_version", "python_version")}


def has_node_here(client: Any) -> bool:
    """Whether a node of the cluster runs here, as a driver needs (private: `get_node_to_connect_for_driver`)."""
    from ray._private.services import get_node_to_connect_for_driver

    try:
        get_node_to_connect_for_driver(client, timeout_seconds=NODE_TIMEOUT_S)
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
