"""Finds the deployment files, in the installed package or in the checkout."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def deployment_root() -> Path:
    """Return the directory with ``Procfile`` and ``config/``.

    A wheel has them in ``livethread_config/deployment``, a checkout at its root.
    """
    package = Path(str(resources.files("livethread_config")))
    packaged = package / "deployment"
    return packaged if packaged.is_dir() else package.parent.parent
