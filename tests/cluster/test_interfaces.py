"""Which network interface has an address."""

import socket

from uadray.cluster.interfaces import interface_of


def test_the_interface_of_an_address() -> None:
    names = {name for _, name in socket.if_nameindex()}
    assert interface_of("127.0.0.1") in names
    assert interface_of("203.0.113.77") is None, "an address of documentation: nobody's"
