"""Ray takes the settings of a command."""

import os
import subprocess
import sys

ASKED = """
from uadray.cluster.patience import set_patience
set_patience()
from ray._raylet import Config
print(Config.grpc_client_keepalive_time_ms(), Config.grpc_client_keepalive_timeout_ms())
"""


def _asked(**environment: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_grpc")}
    done = subprocess.run(
        [sys.executable, "-c", ASKED], env=kept | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_command_waits_no_longer_than_a_minute_and_a_half_for_a_node_that_is_gone() -> None:
    assert _asked() == ["65000", "20000"]
    assert _asked(RAY_grpc_client_keepalive_time_ms="70000") == ["70000", "20000"]
