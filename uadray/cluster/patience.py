"""How long Ray waits for an answer of a node that is gone. None of this needs Ray: it reads these when it is imported.

Where a node is cut off and ends before it can be reached again, the end of its connections is lost too. Whoever waits
for an answer on one of them, such as a driver for leave to run a task there, is told of nothing until Ray asks whether
anybody is still there: after five minutes by its own settings, and for seven a screening stood still.
"""

import os

KEEPALIVE = {"RAY_grpc_client_keepalive_time_ms": "65000", "RAY_grpc_client_keepalive_timeout_ms": "20000"}
"""After so long without an answer it is asked, and for so long. Ray's servers take offence at less than 60 s."""


def set_patience() -> None:
    """Set these for this process; a variable that is set already stays."""
    for name, value in KEEPALIVE.items():
        os.environ.setdefault(name, value)
