"""What a page shows of a tool call: one line, its input, its output, and a patch as a diff."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any, Final

from livethread.web.foreign import dict_of, list_of, parsed, seconds_of, text_of

_PATCH_BEGIN: Final = re.compile(r"^\*\*\* Begin Patch$", re.MULTILINE)
_PATCH_END: Final = re.compile(r"^\*\*\* End Patch$", re.MULTILINE)
_PATCHED_FILE: Final = re.compile(r"^\*\*\* (?:Add|Update|Delete) File: (.+)$", re.MULTILINE)
#: How codex's shell tools report the exit code, at the top of their output.
_EXIT_CODE: Final = re.compile(r"\A(?:.*\n){0,5}?(?:Process exited with code|Exit code:) (-?\d{1,10})(?!\d)")
_SHELL_PREFIX: Final = 3  # bash -lc SCRIPT
_STEP_MARKS: Final = {"completed": "✓", "in_progress": "▸"}


@dataclass(frozen=True, slots=True)
class Request:
    """What was called, and with what."""

    tool: str
    #: The command, or the arguments, on one line.
    line: str = ""
    #: All of it; empty if the line says it.
    text: str = ""
    diff: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call returned."""

    text: str = ""
    exit_code: int | None = None
    #: None if the call does not say it.
    is_ok: bool | None = None
    seconds: float | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the call reported a failure."""
        return self.is_ok is False or bool(self.exit_code)


def request_of(name: Any, arguments: Any) -> Request:
    """Return what a call of the tool *name* with *arguments* asked for."""
    tool, given = str(name or "tool"), parsed(arguments)
    fields = dict_of(given)
    command = fields.get("command", fields.get("cmd"))
    if command:
        return _shell(tool, command)
    if isinstance(given, str):
        return _text(tool, given)
    if plan := list_of(fields.get("plan")):
        steps = [
            f"{_STEP_MARKS.get(text_of(step.get('status')), '·')} {text_of(step.get('step'))}"
            for step in map(dict_of, plan)
        ]
        return Request(tool, f"{len(steps)} steps", "\n".join(steps))
    text = text_of(given)
    return Request(tool, " ".join(text.split()) if fields else "", text if fields else "")


def _shell(tool: str, command: Any) -> Request:
    if isinstance(command, list):
        words = [text_of(word) for word in command]
        is_script = len(words) == _SHELL_PREFIX and words[1] in ("-c", "-lc")
        text = words[2] if is_script else shlex.join(words)
    else:
        text = text_of(command)
    return _text(tool, text)


def _text(tool: str, text: str) -> Request:
    # One expression for a whole patch would read to the end of the text once for each begin of a patch without an end.
    begin = _PATCH_BEGIN.search(text)
    end = _PATCH_END.search(text, begin.end()) if begin else None
    if begin is None or end is None:
        return Request(tool, _first_line(text), _rest(text))
    diff = text[begin.start() : end.end()]
    return Request(tool, ", ".join(_PATCHED_FILE.findall(diff)), "", diff)


def changes_of(changes: Any) -> Request:
    """Return the changes of files that codex reports after a patch, as a diff."""
    files = dict_of(changes)
    return Request("apply_patch", ", ".join(files), "", "\n".join(_file_diff(*change) for change in files.items()))


def _file_diff(path: str, change: Any) -> str:
    fields = dict_of(change)
    kind = text_of(fields.get("type") or next(iter(fields), ""))
    detail = fields if "type" in fields else dict_of(fields.get(kind))
    moved = f" → {detail['move_path']}" if detail.get("move_path") else ""
    if "unified_diff" in detail:
        body = text_of(detail["unified_diff"])
    else:
        sign = "-" if kind == "delete" else "+"
        body = "\n".join(sign + line for line in text_of(detail.get("content")).splitlines())
    return f"*** {kind.capitalize()} File: {path}{moved}\n{body.rstrip()}"


def outcome_of(output: Any) -> Outcome:
    """Return what a call's *output* says: text, an object with metadata, or content parts."""
    value = parsed(output)
    fields = dict_of(value)
    if not fields.keys() & {"output", "content", "body"}:
        text = text_of(output)
        found = _EXIT_CODE.match(text)
        return Outcome(text, int(found[1]) if found else None)
    metadata = dict_of(fields.get("metadata"))
    code, is_ok = metadata.get("exit_code"), fields.get("success")
    return Outcome(
        text_of(fields.get("output", fields.get("content", fields.get("body")))),
        code if type(code) is int else None,
        is_ok if type(is_ok) is bool else None,
        seconds_of(metadata.get("duration_seconds")),
    )


def reported(event: dict[str, Any]) -> Outcome:
    """Return the outcome in codex's own report of a call: of a command, a patch, or an MCP tool."""
    result = dict_of(event.get("result"))
    value = result.get("Ok", result.get("Err", result)) if result else None
    texts = [text_of(event.get(key)) for key in ("aggregated_output", "stdout", "stderr")]
    body = dict_of(value).get("content", value)
    code, is_ok, status = event.get("exit_code"), event.get("success"), event.get("status")
    if "Err" in result or dict_of(value).get("isError") is True or status in ("failed", "declined"):
        is_ok = False
    return Outcome(
        text_of(body) if value is not None else texts[0] or "\n".join(filter(None, texts[1:])),
        code if type(code) is int else None,
        is_ok if type(is_ok) is bool else None,
        seconds_of(event.get("duration")),
    )


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _rest(text: str) -> str:
    """Return *text* if its first line does not say it all."""
    return text if "\n" in text.strip() else ""


def mcp_request(invocation: Any) -> Request:
    """Return the request of an MCP tool's *invocation*: its server, its name and its arguments."""
    fields = dict_of(invocation)
    name = ".".join(text_of(fields.get(key)) for key in ("server", "tool") if fields.get(key))
    arguments = fields.get("arguments")
    return request_of(name or "mcp", json.dumps(arguments, default=str) if isinstance(arguments, list) else arguments)
