"""The settings file, and the check that the environment and the file name no setting that does not exist."""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from pydantic_settings import SettingsError

ENV_PREFIX: Final = "LIVETHREAD_"

#: The variable that names another settings file.
FILE_VARIABLE: Final = f"{ENV_PREFIX}SETTINGS_FILE"

#: Variables with our prefix that are no settings: of our tests, and those that Kubernetes sets in every pod if a service is
#: called livethread or livethread-….
_OTHERS: Final = re.compile(rf"{ENV_PREFIX}(TEST_.*|(.*_)?(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?)")


def settings_path() -> Path:
    """Return the path of the settings file, which need not exist."""
    if named := os.environ.get(FILE_VARIABLE):
        return Path(named).expanduser().absolute()
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(folder).expanduser() / "livethread" / "settings.toml"


def variable_of(name: str) -> str:
    """Return the variable of the environment that sets *name*."""
    return ENV_PREFIX + name.upper()


def require_known_variables(names: Collection[str]) -> None:
    """Check that each variable ``LIVETHREAD_*`` sets one of *names*.

    Raises:
        SettingsError: one does not; the message names the most similar setting.
    """
    for variable in map(str.upper, os.environ):
        if not variable.startswith(ENV_PREFIX) or variable == FILE_VARIABLE or _OTHERS.fullmatch(variable):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in names:
            similar = _most_similar(name, names)
            raise SettingsError(f"{variable} is not a setting; {_advice(similar and variable_of(similar))}")


def read_settings_file(names: Collection[str]) -> dict[str, Any]:
    """Return the values in the settings file; it may set each of *names*.

    Raises:
        SettingsError: it cannot be read, sets something else, or other users may change it or read its password.
    """
    path = settings_path()
    try:
        with path.open("rb") as file:
            values, status = tomllib.load(file), os.fstat(file.fileno())
    except FileNotFoundError:
        if os.environ.get(FILE_VARIABLE):
            raise SettingsError(f"{FILE_VARIABLE} names {path}, which does not exist") from None
        return {}
    except OSError as error:
        raise SettingsError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise SettingsError(f"the settings file {path} is not valid TOML: {error}") from None
    for name in values:
        if name not in names:
            raise SettingsError(f"{path}: {name} is not a setting; {_advice(_most_similar(name, names))}")
    url = str(values.get("redis_url", ""))
    has_password = "@" in url or "password" in url
    forbidden = stat.S_IWOTH | (stat.S_IROTH if has_password else 0)
    if stat.S_ISREG(status.st_mode) and status.st_mode & forbidden:
        raise SettingsError(f"other users may {'read' if has_password else 'change'} {path}; run: chmod 600 {path}")
    return values


def _most_similar(name: str, names: Collection[str]) -> str | None:
    longer = (each for each in names if each.startswith(name))
    return next(longer, None) or next(iter(difflib.get_close_matches(name, names)), None)


def _advice(similar: str | None) -> str:
    return f"did you mean {similar}?" if similar else "docs/reference.md lists the settings"
