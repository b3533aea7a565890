"""Checks who asks for a page, and says what pages may load."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Collection
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Name of the cookie with the token. It contains the port, because a browser shares cookies among the ports of a host.
COOKIE: Final = "livethread-{port}"
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Refuses foreign host names and, if there is a *token*, requests without it; sets the headers of each answer.

    Another site's script can make a name of its own lead to this server (DNS rebinding), and then read what it answers. So
    a request must name an address, ``localhost``, or one of *names*.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, names: Collection[str]) -> None:
        self._app = app
        self._token = token
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._answer(HTTPConnection(scope)) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, request: HTTPConnection) -> Response | None:
        """Return the answer to a request that does not get through, or None."""
        if not self._is_ours(request.headers.get("host", "")):
            text = "This host name is not one of this server's: livethread browse --name adds it.\n"
            return PlainTextResponse(text, HTTPStatus.MISDIRECTED_REQUEST)
        cookie = COOKIE.format(port=request.scope["server"][1])
        if self._token is None or self._is_token(request.cookies.get(cookie)):
            return None
        given = request.query_params.multi_items()
        if not self._is_token(dict(given).get("token")):
            text = "Open the address that livethread browse printed when it started: it has the token.\n"
            return PlainTextResponse(text, HTTPStatus.UNAUTHORIZED)
        # The token goes from the address into a cookie, so that no link, no history and no log has it from here on.
        rest = urlencode([(name, value) for name, value in given if name != "token"])
        response = RedirectResponse(f"{request.url.path}?{rest}" if rest else request.url.path, HTTPStatus.SEE_OTHER)
        response.set_cookie(cookie, self._token, httponly=True, samesite="lax")
        return response

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self._names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _is_token(self, given: str | None) -> bool:
        return (
            given is not None
            and self._token is not None
            and secrets.compare_digest(given.encode(), self._token.encode())
        )
