"""Names and addresses by which a machine reaches itself."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an interface; a name other than localhost is not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
