"""Hosts of a benchmark can be cut off, and are gone afterwards."""

import shutil
import subprocess
import sys
import time

import pytest

from uadray.bench import network


def test_hosts_can_be_cut_off_and_are_gone_afterwards() -> None:
    if missing := network.what_is_missing():
        pytest.skip(f"NO NAMESPACES: {missing}")
    with network.made_network() as hosts:
        hosts.grow(2)
        serve = f"import socket; s = socket.create_server(('{hosts.address(0)}', 5000))\nwhile True: s.accept()"
        server = subprocess.Popen([*hosts.inside(0), sys.executable, "-c", serve])

        def is_reached() -> bool:
            connect = f"import socket; socket.create_connection(('{hosts.address(0)}', 5000), 0.3)"
            client = [*hosts.inside(1), sys.executable, "-c", connect]
            return subprocess.run(client, capture_output=True, check=False).returncode == 0

        while not is_reached():
            assert server.poll() is None
            time.sleep(0.05)
        hosts.unplug(0)
        assert not is_reached()
        hosts.plug_in(0)
        assert is_reached()
        hosts.block(1, 0)
        assert not is_reached()
        hosts.unblock(1, 0)
        assert is_reached()
        if shutil.which("iptables"):
            hosts.drop(0)
            assert not is_reached()
            hosts.undrop(0)
            assert is_reached()
        hosts.kill(0)
        assert server.wait(5) == -9
    assert hosts.prefix not in network.do("ip", "netns") + network.do("ip", "link")
