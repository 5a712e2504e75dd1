"""Which MCP servers may be reached: hosts by name, and addresses that are not on the public internet only if they are listed.

Without the second rule anyone who may send a request could have this server talk to its neighbours (server-side request
forgery): to a machine of the intranet, or to a cloud's metadata service. The address that counts is the one that is
connected to, whatever a name resolved to before.
"""

import ipaddress
from collections.abc import Iterable

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class McpHosts:
    """An allow-list; immutable. Entries: ``host``, ``host:port``, ``*.domain``, ``*``, an address, or a network.

    ``*`` allows every public host. ``localhost`` allows this machine.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._networks: list[_IpNetwork] = []
        for entry in entries:
            network = _network(entry)
            if network is None:
                self._names.add(entry.lower())
            else:
                self._networks.append(network)

        self._has_localhost = any(name.partition(":")[0] == "localhost" for name in self._names)

    def __bool__(self) -> bool:
        return bool(self._names or self._networks)

    def allows(self, host: str, port: int) -> bool:
        """Whether a server may be asked under this name, or at this address if ``host`` is one."""
        host = host.lower().rstrip(".")
        address = _address(host)
        if address is not None:
            return self._is_listed(address) or ("*" in self._names and self.allows_address(host, address))
        if not self._names.isdisjoint({"*", host, f"{host}:{port}"}):
            return True
        labels = host.split(".")
        return any("*." + ".".join(labels[at:]) in self._names for at in range(1, len(labels)))

    def allows_address(self, host: str, address: IpAddress) -> bool:
        """Whether the address to which ``host`` resolved may be connected to."""
        real = _embedded(address)
        if self._is_listed(real) or self._is_listed(address):
            return True
        if host.lower() == "localhost" and self._has_localhost and real.is_loopback:
            return True
        return real.is_global and not (real.is_multicast or real.is_reserved or real.is_link_local or real.is_loopback)

    def _is_listed(self, address: IpAddress) -> bool:
        return any(address in network for network in self._networks)


def _network(entry: str) -> _IpNetwork | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None


def _address(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _embedded(address: IpAddress) -> IpAddress:
    """Return the IPv4 address in an IPv6 address of a kind that contains one: such packets end there."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)
