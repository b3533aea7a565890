"""Reads the permission profile of a turn, in the form of today's or of older codex."""

from __future__ import annotations

from typing import Any, Final

_ROOT: Final = {"path": {"type": "special", "value": {"kind": "root"}}, "access": "read"}

#: Folders in a workspace that stay read-only.
_PROTECTED: Final = (".git", ".agents", ".codex", ".aws")

#: codex's default.
READ_ONLY: Final[dict[str, Any]] = {
    "type": "managed",
    "file_system": {"type": "restricted", "entries": [_ROOT]},
    "network": "restricted",
}


def permission_profile(context: dict[str, Any]) -> Any:
    """Return the permission profile of a ``turn_context``, or None if it has none.

    Older codex wrote a ``sandbox_policy`` instead. For ``workspace-write``, codex also adds protected folders that exist
    on its machine; they are left out, so that a rollout means the same everywhere.
    """
    if (profile := context.get("permission_profile")) is not None:
        return profile
    policy, cwd = context.get("sandbox_policy"), context.get("cwd")
    if not isinstance(policy, dict):
        return None
    network = policy.get("network_access")
    match policy.get("type"):
        case "danger-full-access":
            return {"type": "disabled"}
        case "external-sandbox":
            return {"type": "external", "network": network if isinstance(network, str) else "restricted"}
        case "read-only":
            entries = [_ROOT]
        case "workspace-write":
            entries = _workspace(policy, cwd)
        case _:
            return None
    return {
        "type": "managed",
        "file_system": {"type": "restricted", "entries": entries},
        "network": "enabled" if network is True else "restricted",
    }


def _workspace(policy: dict[str, Any], cwd: Any) -> list[dict[str, Any]]:
    roots = policy.get("writable_roots")
    writable = [_special("project_roots"), *map(_path, roots if isinstance(roots, list) else [])]
    if policy.get("exclude_slash_tmp") is not True:
        writable.append(_special("slash_tmp"))
    if policy.get("exclude_tmpdir_env_var") is not True:
        writable.append(_special("tmpdir"))
    protected = [_special("project_roots", subpath=name) for name in _PROTECTED]
    if isinstance(cwd, str) and cwd.startswith("/"):
        protected.append(_path(f"{cwd.rstrip('/')}/.codex"))
    return [
        _ROOT,
        *({"path": path, "access": "write"} for path in writable),
        *({"path": path, "access": "read", "missing_path_behavior": "skip"} for path in protected),
    ]


def _special(kind: str, **detail: str) -> dict[str, Any]:
    return {"type": "special", "value": {"kind": kind, **detail}}


def _path(path: Any) -> dict[str, Any]:
    return {"type": "path", "path": path}
