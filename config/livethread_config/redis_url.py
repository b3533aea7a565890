"""The URL of Redis, parsed once: redis-py, kombu and Flower get the same server, rights and certificates from it."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final, Self
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

#: Scheme -> whether it is encrypted. Providers of Valkey spell it their own way.
_TCP_SCHEMES: Final = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}

#: Schemes of other libraries -> what they lead to.
_CLUSTERS: Final = {
    "redis+cluster": "a cluster",
    "rediss+cluster": "a cluster",
    "sentinel": "Sentinel",
    "redis+sentinel": "Sentinel",
    "rediss+sentinel": "Sentinel",
}

_CREDENTIALS: Final = ("username", "password", "db")
_TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS: Final = ("ssl_cert_reqs", "ssl_check_hostname", *_TLS_FILES)

#: Spellings of ``ssl_cert_reqs`` (redis-py's and Celery's) -> whether the server's certificate is verified.
_CERT_REQS: Final = {"required": True, "CERT_REQUIRED": True, "none": False, "CERT_NONE": False}
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}

DEFAULT_PORT: Final = 6379


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server's certificate is verified, and which one the client shows."""

    verifies: bool = True
    checks_hostname: bool = True
    #: ``ssl_ca_certs``, ``ssl_certfile``, ``ssl_keyfile``: option -> path. Without ``ssl_ca_certs``: the system's.
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A Redis server, and how to log in."""

    host: str = ""
    port: int = DEFAULT_PORT
    #: Absolute path of the unix socket; empty: TCP.
    socket: str = ""
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: Tls | None = None

    @classmethod
    def of_socket(cls, path: PurePath) -> Self:
        """Return the URL of the server that listens on the unix socket *path*."""
        return cls(socket=str(path))

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse *url*, and refuse every option that would not mean the same to all who use it.

        Raises:
            ValueError: *url* is malformed, leads to a cluster or Sentinel, or has an unknown option.
        """
        try:
            parts = urlsplit(url)
        except ValueError:  # which shows the login
            raise ValueError("it is not a URL: percent-encode the special characters of a password") from None
        if parts.scheme in _CLUSTERS:
            raise ValueError(
                f"{parts.scheme}:// leads to {_CLUSTERS[parts.scheme]}, which is not supported; use the URL of one Redis "
                "server, or a proxy's that follows failovers"
            )
        if parts.scheme not in {*_TCP_SCHEMES, "unix"}:
            raise ValueError("a Redis URL begins with redis://, rediss:// or unix://, as redis://localhost:6379/0")
        if parts.fragment:
            raise ValueError("it has a #: write # in a password as %23")
        is_encrypted = _TCP_SCHEMES.get(parts.scheme, False)
        options = _options(parts.query, is_encrypted=is_encrypted)
        username = options.get("username", unquote(parts.username or ""))
        password = options.get("password", unquote(parts.password or ""))
        if parts.scheme == "unix":
            if parts.hostname or not parts.path.startswith("/"):
                raise ValueError("the path of a unix socket is absolute, as unix:///run/redis.sock")
            db = options.get("db", "")
            return cls(socket=unquote(parts.path), db=_db(db), username=username, password=password)
        return cls(
            host=unquote(parts.hostname or "localhost"),
            port=_port(parts),
            db=_db(options.get("db", unquote(parts.path).strip("/"))),
            username=username,
            password=password,
            tls=_tls(options) if is_encrypted else None,
        )

    @property
    def for_redis_py(self) -> str:
        """The URL as redis-py spells it."""
        if self.socket:
            return f"unix://{self._login}{quote(self.socket)}?db={self.db}"
        scheme, query = ("redis", "") if self.tls is None else ("rediss", f"?{_tls_query(self.tls)}")
        return f"{scheme}://{self._login}{self._address}/{self.db}{query}"

    @property
    def for_kombu(self) -> str:
        """The URL as kombu, Celery and Flower spell it; `for_kombu_tls` belongs to it."""
        if self.socket:
            return f"redis+socket://{self._login}{quote(self.socket)}?virtual_host={self.db}"
        return f"{'redis' if self.tls is None else 'rediss'}://{self._login}{self._address}/{self.db}"

    @property
    def for_kombu_tls(self) -> dict[str, Any] | None:
        """Celery's settings ``broker_use_ssl`` and ``redis_backend_use_ssl``; None without TLS."""
        if self.tls is None:
            return None
        return {
            "ssl_cert_reqs": ssl.CERT_REQUIRED if self.tls.verifies else ssl.CERT_NONE,
            "ssl_check_hostname": self.tls.checks_hostname,
            **dict(self.tls.files),
        }

    @property
    def _login(self) -> str:
        if not self.username and not self.password:
            return ""
        return f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"

    @property
    def _address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else quote(self.host)
        return f"{host}:{self.port}"


def without_password(url: str) -> str:
    """Return *url* in the form that errors and logs may show."""
    password = urlsplit(url).password
    hidden = url.replace(f":{password}@", ":***@") if password else url
    return re.sub(r"(?<=[?&]password=)[^&]*", "***", hidden)


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or DEFAULT_PORT
    except ValueError:  # which says what stands there: part of a password, if that has a /
        raise ValueError("a port is a number up to 65535; write / in a password as %2F") from None


def _options(query: str, *, is_encrypted: bool) -> dict[str, str]:
    """Return the options in *query*.

    Raises:
        ValueError: one is unknown, or stands there twice.
    """
    allowed = (*_CREDENTIALS, *_TLS_OPTIONS) if is_encrypted else _CREDENTIALS
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _TLS_OPTIONS and not is_encrypted:
            raise ValueError(f"the option {name} needs rediss://")
        if "@" in name:
            raise ValueError("it has a ? before an @: write ? in a password as %3F")
        if name not in allowed:
            raise ValueError(f"the option {name} is not supported; these are: {', '.join(allowed)}")
        if name in options:
            raise ValueError(f"it has the option {name} twice")
        options[name] = value
    return options


def _db(text: str) -> int:
    if text and not (text.isascii() and text.isdigit()):
        raise ValueError("a database is a number, as in redis://localhost:6379/0; write / in a password as %2F")
    return int(text or 0)


def _tls(options: dict[str, str]) -> Tls:
    verifies = _one_of("ssl_cert_reqs", options.get("ssl_cert_reqs", "required"), _CERT_REQS)
    checks_hostname = _one_of("ssl_check_hostname", options.get("ssl_check_hostname", str(verifies)).lower(), _FLAGS)
    if checks_hostname and not verifies:
        raise ValueError("ssl_check_hostname needs ssl_cert_reqs=required")
    return Tls(verifies, checks_hostname, tuple((name, options[name]) for name in _TLS_FILES if name in options))


def _one_of(name: str, value: str, meanings: dict[str, bool]) -> bool:
    if value not in meanings:
        raise ValueError(f"{name} is one of {', '.join(meanings)}, not {value!r}")
    return meanings[value]


def _tls_query(tls: Tls) -> str:
    options = {
        "ssl_cert_reqs": "required" if tls.verifies else "none",
        "ssl_check_hostname": str(tls.checks_hostname),
        **dict(tls.files),
    }
    return urlencode(options)
