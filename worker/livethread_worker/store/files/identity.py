"""Which home this is, and to which deployment it belongs: two files in the home's own folder.

The file with the id is never written again, so its inode tells the home from its copies.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from contextlib import suppress
from typing import Final

from livethread.errors import InvalidRequest
from livethread_config.deployment import Deployment, HomeIdentity
from livethread_worker.store.files.home import FILE_MODE, Home

#: The home's id and the key prefix of its deployment, as JSON.
IDENTITY_FILE: Final = "home.json"

#: The deployment record as a worker last saw it, as JSON.
RECORD_FILE: Final = "deployment.json"


def identify(home: Home, prefix: str) -> HomeIdentity:
    """Return the identity of *home*; its first process gives it one, for the deployment with *prefix*.

    Raises:
        InvalidRequest: it belongs to a deployment with another prefix.
        OSError: the home cannot be created or read.
    """
    home.create()
    if (known := find_identity(home, prefix)) is not None:
        return known
    new = home.own / f".{IDENTITY_FILE}.{uuid.uuid4().hex}"
    content = json.dumps({"id": uuid.uuid4().hex[:12], "key_prefix": prefix}).encode()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
        with suppress(FileExistsError):  # another process was faster
            os.link(new, home.own / IDENTITY_FILE)
    finally:
        os.close(descriptor)
        new.unlink()
    known = find_identity(home, prefix)
    assert known is not None
    return known


def find_identity(home: Home, prefix: str | None = None) -> HomeIdentity | None:
    """Return the identity of *home*; None if no worker has given it one.

    Raises:
        InvalidRequest: it belongs to a deployment with another prefix than *prefix*, or the file is damaged.
        OSError: the home cannot be read.
    """
    path = home.own / IDENTITY_FILE
    try:
        with path.open("rb") as file:
            inode, content = os.fstat(file.fileno()).st_ino, file.read()
    except FileNotFoundError:
        return None
    try:
        known = json.loads(content)
        id_, own_prefix = str(known["id"]), str(known["key_prefix"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path} is damaged ({error}); delete it, and run livethread shards move") from None
    if prefix is not None and own_prefix != prefix:
        raise InvalidRequest(
            f"the home {home.root} belongs to the deployment {own_prefix!r}, and LIVETHREAD_KEY_PREFIX is {prefix!r}: use "
            "the deployment's prefix, or another home"
        )
    return HomeIdentity(id_, str(inode), socket.gethostname(), str(home.root))


def recall_deployment(home: Home, mine: HomeIdentity | None) -> Deployment | None:
    """Return the deployment record as a worker last saw it; None if none did, or the file is damaged.

    The home of which *home*, with the identity *mine*, is a copy is left out: a backup that is restored beside a new Redis
    serves the original's shards. If Redis has the record, that decides.
    """
    if (known := recall_record(home)) is None:
        return None
    homes = known.home_of.items()
    kept = {shard: each for shard, each in homes if mine is None or each.id != mine.id or each == mine}
    return Deployment(known.epochs, kept)


def recall_record(home: Home) -> Deployment | None:
    """Return the deployment record as a worker last saw it, and as it is; None if none did, or the file is damaged."""
    try:
        return Deployment.parse(json.loads((home.own / RECORD_FILE).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remember_deployment(home: Home, deployment: Deployment) -> None:
    """Keep *deployment*, so that it can be restored if Redis loses the record."""
    new = home.own / f".{RECORD_FILE}.{uuid.uuid4().hex}"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(json.dumps(deployment.fields()).encode())
            file.flush()
            os.fsync(descriptor)
        new.replace(home.own / RECORD_FILE)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
