"""Who may connect: hosts, origins and the token."""

from __future__ import annotations

import ipaddress
import secrets
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that is bound to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Let in who is meant.

    A page of another site may open a WebSocket to this machine, and a name of its own may lead here: so the origin must
    be the host that is asked for, and, on loopback, that host must be this machine.

    Args:
        host: What the server is bound to.
        token: What everybody has to bring; ``None`` needs none on loopback, and makes one elsewhere.
    """

    def __init__(self, host: str = "127.0.0.1", token: str | None = None) -> None:
        self.is_local = is_loopback(host)
        self.token = token or (None if self.is_local else secrets.token_urlsafe(16))

    def obstacle(self, asked: HTTPConnection) -> str:
        """Return why somebody is not let in; empty if they are."""
        host = asked.headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        if self.is_local and not is_loopback(name):
            return f"this server is for this machine, not for {name[:80]!r}"
        origin = asked.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return "pages of other origins may not connect"
        given = asked.query_params.get("token", "")
        if self.token and not secrets.compare_digest(given.encode(), self.token.encode()):
            return "the token is missing or wrong; open the address that `serve` printed"
        return ""
