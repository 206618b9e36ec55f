"""Where this process runs, without importing Ray: what has no Ray in it runs nowhere."""

import sys


def here() -> tuple[str, str]:
    """Ray's id of this node and its address; empty outside of Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return "", ""
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
