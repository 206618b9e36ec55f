"""Workers of a group talk to each other by the interface that Ray knows their nodes by."""

import os
from typing import Any

import ray
import ray.train.torch

_TorchBackend = ray.train.torch.TorchConfig().backend_cls


class OwnInterface(ray.train.torch.TorchConfig):  # type: ignore[misc]  # Ray is untyped
    """Has workers talk to each other by the interface that Ray knows their nodes by."""

    @property
    def backend_cls(self) -> type:
        """What sets up the process group."""
        return OwnInterfaceBackend


class OwnInterfaceBackend(_TorchBackend):  # type: ignore[misc, valid-type]
    """Gloo takes the address that a host's own name resolves to, which on Debian is 127.0.1.1."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Set up the process group."""
        worker_group.execute(use_own_interface)
        super().on_start(worker_group, backend_config)


def use_own_interface() -> None:
    """In a worker, before its process group starts: tell Gloo the interface. What is set already stays."""
    interface = interface_of(ray.util.get_node_ip_address())
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this address; None where none has (behind a translated address)."""
    import psutil  # type: ignore[import-untyped]  # Ray's own

    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return str(name)
    return None
