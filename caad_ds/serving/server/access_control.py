"""Access control: each request is checked before its body is read."""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from caad_ds.serving.server import replies
from caad_ds.serving.server.refusals import Refused
from caad_ds.utils.loopback import is_loopback

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]

OPEN = {"/", "/page.js", "/page.css", "/health"}  # need no key: they say nothing about models or requests
HEADERS = {
    b"cache-control": b"no-store",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"media-src 'self' blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Guard:
    """Requires the key, if there is one, before it calls the application.

    On a loopback interface (`local`) the Host header must be localhost or a loopback address, which prevents DNS
    rebinding. Pages of other sites can neither read an answer (there is no CORS header) nor send JSON, which requests
    must be.
    """

    def __init__(self, app: Application, key: str, local: bool):
        self._app, self._key, self._local = app, key, local

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Call the application if the request is permitted, else refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        try:
            self._check(scope)
        except Refused as refused:
            return await replies.refusal(refused)(scope, receive, with_headers)
        return await self._app(scope, receive, with_headers)

    def _check(self, scope: Scope) -> None:
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if self._local and (len(hosts) != 1 or not is_loopback(_name(hosts[0]))):
            raise Refused(421, "Host: this server answers to localhost alone; ask it by that name")
        if not self._key or scope["path"] in OPEN:
            return
        given = [value for name, value in headers if name == b"authorization"]
        kind, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if kind.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self._key.encode()):
            raise Refused(401, "Authorization: the key is missing or wrong; send it as a bearer token")


def _name(host: str) -> str:
    """Return the name in `name`, `name:port`, `[address]` or `[address]:port`."""
    name, colon, port = host.rpartition(":")
    name = name if colon and port.isdecimal() else host
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name.lower()
