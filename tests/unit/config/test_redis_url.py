from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from redis.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection

from livethread_config.redis_url import RedisUrl, Tls


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("redis://localhost", RedisUrl(host="localhost")),
        ("redis://r:6380/2", RedisUrl(host="r", port=6380, db=2)),
        ("redis://r/?db=2", RedisUrl(host="r", db=2)),
        ("redis://:pw@[::1]:6379/0", RedisUrl(host="::1", password="pw")),
        ("redis://u:a%40b%3Ac%2F%25@r", RedisUrl(host="r", username="u", password="a@b:c/%")),
        ("redis://r?username=u&password=%C3%A9%26", RedisUrl(host="r", username="u", password="é&")),
        ("valkey://r", RedisUrl(host="r")),
        ("valkeys://r", RedisUrl(host="r", tls=Tls())),
        ("unix:///run/redis.sock", RedisUrl(socket="/run/redis.sock")),
        ("unix://u:pw@/a%20b/r.sock?db=4", RedisUrl(socket="/a b/r.sock", db=4, username="u", password="pw")),
        ("rediss://r:6380/0", RedisUrl(host="r", port=6380, tls=Tls())),
        ("rediss://r?ssl_cert_reqs=required", RedisUrl(host="r", tls=Tls())),
        ("rediss://r?ssl_cert_reqs=CERT_REQUIRED", RedisUrl(host="r", tls=Tls())),
        ("rediss://r?ssl_cert_reqs=none", RedisUrl(host="r", tls=Tls(verifies=False, checks_hostname=False))),
        ("rediss://r?ssl_cert_reqs=CERT_NONE", RedisUrl(host="r", tls=Tls(verifies=False, checks_hostname=False))),
        ("rediss://r?ssl_check_hostname=False", RedisUrl(host="r", tls=Tls(checks_hostname=False))),
        (
            "rediss://r?ssl_keyfile=/k.pem&ssl_ca_certs=/my%20ca.pem",
            RedisUrl(host="r", tls=Tls(files=(("ssl_ca_certs", "/my ca.pem"), ("ssl_keyfile", "/k.pem")))),
        ),
    ],
)
def test_a_url_says_server_login_and_certificates(url: str, parsed: RedisUrl) -> None:
    assert RedisUrl.parse(url) == parsed
    assert RedisUrl.parse(parsed.for_redis_py) == parsed


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:6379", "begins with redis://"),
        ("http://r", "begins with redis://"),
        ("redis://r:port", "[Pp]ort"),
        ("redis://r/zero", "a database is a number"),
        ("redis://r?db=-1", "a database is a number"),
        ("redis://:a#b@r", "write # in a password as %23"),
        ("redis://:a/b@r", "write / in a password as %2F"),
        ("redis://:7/b@r", "a database is a number"),
        ("redis://:a?b@r", "write \\? in a password as %3F"),
        ("redis://:a[b@r", "percent-encode the special characters"),
        ("unix://run/redis.sock", "the path of a unix socket is absolute"),
        (
            "redis://r?socket_timeout=1",
            "the option socket_timeout is not supported; these are: username, password, db",
        ),
        ("redis://r?ssl_cert_reqs=none", "ssl_cert_reqs needs rediss://"),
        ("rediss://r?ssl_cert_reqs=optional", "ssl_cert_reqs is one of required, CERT_REQUIRED, none, CERT_NONE"),
        ("rediss://r?ssl_cert_reqs=none&ssl_check_hostname=true", "ssl_check_hostname needs ssl_cert_reqs=required"),
        ("rediss://r?ssl_check_hostname=maybe", "ssl_check_hostname is one of true, 1, false, 0"),
        ("redis://r?db=1&db=2", "the option db twice"),
        (
            "sentinel://r:26379",
            "sentinel:// leads to Sentinel, which is not supported; use the URL of one Redis server",
        ),
        ("redis+cluster://r", "leads to a cluster, which is not supported"),
    ],
)
def test_an_option_that_would_not_mean_the_same_to_all_is_refused_by_name(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RedisUrl.parse(url)


@pytest.mark.parametrize(
    ("url", "connection", "arguments"),
    [
        (
            "rediss://u:a%40b@[::1]:6380/3?ssl_ca_certs=/ca.pem",
            SSLConnection,
            {
                "host": "::1",
                "port": 6380,
                "db": 3,
                "username": "u",
                "password": "a@b",
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
                "ssl_ca_certs": "/ca.pem",
            },
        ),
        (
            "unix://:%C3%A9%3A%2F@/a%2520%20%3F/r.sock?db=3",
            UnixDomainSocketConnection,
            {"path": "/a%20 ?/r.sock", "db": 3, "password": "é:/"},
        ),
    ],
)
def test_redis_py_gets_everything(url: str, connection: type[object], arguments: dict[str, Any]) -> None:
    pool = ConnectionPool.from_url(RedisUrl.parse(url).for_redis_py)

    assert pool.connection_class is connection
    assert {name: pool.connection_kwargs.get(name) for name in arguments} == arguments


@pytest.mark.parametrize(
    ("url", "kombus", "tls"),
    [
        ("redis://:p%2F@r/2", "redis://:p%2F@r:6379/2", None),
        ("unix://u:pw@/run/r.sock?db=4", "redis+socket://u:pw@/run/r.sock?virtual_host=4", None),
        (
            "rediss://u:pw@r:6380/3?ssl_certfile=/c.pem",
            "rediss://u:pw@r:6380/3",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_certfile": "/c.pem"},
        ),
        (
            "rediss://r?ssl_cert_reqs=none",
            "rediss://r:6379/0",
            {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False},
        ),
    ],
)
def test_kombu_gets_certificates_apart_from_the_url(url: str, kombus: str, tls: dict[str, Any] | None) -> None:
    parsed = RedisUrl.parse(url)

    assert (parsed.for_kombu, parsed.for_kombu_tls) == (kombus, tls)


def test_a_socket_of_any_path_has_a_url() -> None:
    url = RedisUrl.of_socket(Path("/homes/50% off?/redis.sock"))

    assert RedisUrl.parse(url.for_redis_py) == url
