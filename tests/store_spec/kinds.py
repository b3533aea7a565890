"""The stores that a specification runs on."""

from __future__ import annotations

import pytest

MEMORY = "memory"
LOCAL = "local"
FILES = "local, without an index"
QUEUED = "queued"
CELERY = "queued, reads over Celery"

STORES = (MEMORY, LOCAL, FILES, QUEUED)

#: For reads: over Celery, a worker answers them for clients on other hosts.
EVERY_READER = pytest.mark.parametrize("kind", [*STORES, CELERY])

#: For tests of several writers: stores that can share a home.
SHARED = pytest.mark.parametrize("kind", [LOCAL, FILES, QUEUED])

#: Likewise for tests of reads.
SHARED_READERS = pytest.mark.parametrize("kind", [LOCAL, FILES, QUEUED, CELERY])

#: Small, so that a test reaches it cheaply.
MAX_ITEM_BYTES = 64 * 1024
