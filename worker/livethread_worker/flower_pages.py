"""Completes Flower's configuration: what its pages show of ordered tasks, a login, and a check of names.

``config/flowerconfig.py`` uses it; it needs the extra ``flower``.
"""

from __future__ import annotations

import ast
import difflib
import os
import secrets
import sys
from collections import Counter
from collections.abc import Mapping, MutableMapping
from types import NoneType
from typing import Any, Final

from flower import urls
from flower.views.tasks import TasksView
from flower.views.workers import WorkerView
from tornado.options import options
from tornado.web import url

from livethread_config import Settings
from livethread_config.addresses import is_loopback

#: Beginning of the names of ordered tasks.
NAMES: Final = "livethread."

USER: Final = "livethread"

ENV_PREFIX: Final = "FLOWER_"
#: Variables that Flower reads beside its options.
OTHER_VARIABLES: Final = frozenset({
    "FLOWER_UNAUTHENTICATED_API",
    "FLOWER_GITHUB_OAUTH_DOMAIN",
    "FLOWER_GITLAB_OAUTH_DOMAIN",
    "FLOWER_GITLAB_AUTH_ALLOWED_GROUPS",
    "FLOWER_GITLAB_MIN_ACCESS_LEVEL",
    "FLOWER_OAUTH2_OKTA_BASE_URL",
})
#: What Kubernetes sets in each pod for a service that is called ``flower``.
SERVICE_VARIABLES: Final = ("FLOWER_SERVICE_", "FLOWER_PORT_")

#: Types of an option's value. Names with values of other types, such as imported modules, need not be options.
PLAIN: Final = (bool, int, float, str, list, tuple, NoneType)

#: In the page of tasks, the note stands before this.
TABLE: Final = b'<table id="tasks-table"'
#: Rows fit 1,280 pixels: ids are shortened as on a phone, and the title of each has the whole.
STYLE: Final = (
    "<style>.tasks-table{font-size:.75rem}.tasks-table thead th{padding-left:.4rem!important;padding-right:1.1rem!important}"
    ".tasks-table td{padding:.5rem .4rem!important;border-color:var(--bs-border-color)}"
    ".tasks-table .overflow-auto{max-width:17.5rem;overflow:hidden!important}"
    ".tasks-table td.overflow-auto~td.overflow-auto{max-width:13.5rem}.tasks-table .worker-name-link{max-width:8rem}"
    ".tasks-table .task-uuid-full{display:none}.tasks-table .task-uuid-short{display:inline}</style>"
)


def complete(config: MutableMapping[str, Any]) -> None:
    """Check the names in *config*, the globals of a configuration file, add a login if it needs one, and adapt pages.

    If Flower listens beyond this machine, it asks for a login. If *config*, variables and the command line set no login,
    each start makes a new password and prints it.

    Raises:
        SystemExit: an option, or a variable ``FLOWER_…``, has a name that Flower does not know.
    """
    _require_known(config, os.environ)
    address = options.address or config.get("address", "")
    has_login = any(config.get(name) or getattr(options, name) for name in ("basic_auth", "auth"))
    if not has_login and not options.unix_socket and not is_loopback(address):
        password = secrets.token_urlsafe()
        config["basic_auth"] = [f"{USER}:{password}"]
        # To stderr, as a server's log goes; `livethread up` shows it.
        sys.stderr.write(f"Flower asks for the user {USER} and the password {password}\n")
    replacements = {TasksView: OrderedTasksView, WorkerView: OrderedWorkerView}
    for place, handler in enumerate(urls.handlers):
        if (view := replacements.get(getattr(handler, "handler_class", None))) is not None:
            urls.handlers[place] = url(handler.regex.pattern, view, name=handler.name)


def format_task(task: Any) -> Any:
    """Shorten an ordered task to fit the cells of the list. Flower passes a copy, and searches the original."""
    if (task.name or "").startswith(NAMES):
        task.name = task.name.removeprefix(NAMES)
    try:
        shown = ast.literal_eval(task.kwargs or "")
        items, size, place = shown["items"], shown["bytes"], f"at {shown['position']} of {shown['thread']}"
    except (ValueError, SyntaxError, KeyError, TypeError):
        return task  # a doorbell, a read
    task.kwargs = f"{items:,} item{'' if items == 1 else 's'}, {size:,} B {place}" if size else place
    if task.state == "FAILURE":  # the page of the task has the whole reason
        task.result = (task.exception or "").replace(f"thread {shown['thread']} ", "")
    else:
        task.result = (task.result or "").strip("'")
    return task


def omitted(rate: int) -> str:
    """Return what the list of tasks leaves out, as HTML, if each worker process reports *rate* ordered tasks a second."""
    limit = (
        f"Each worker process reports at most {rate:,} ordered tasks a second; above that, this list shows a sample."
        if rate
        else "Workers report no ordered tasks, because <code>LIVETHREAD_TASK_EVENTS_PER_S</code> is 0."
    )
    return f"{limit} For totals, run <code>livethread status</code> or read <code>livethread metrics</code>."


class OrderedTasksView(TasksView):  # type: ignore[misc]  # Flower has no types
    """The list of tasks, with a note about what it leaves out."""

    def render_string(self, template_name: str, **kwargs: Any) -> bytes:
        """Return the page."""
        shown = omitted(Settings().task_events_per_s)
        note = f'{STYLE}<p class="small px-3 pt-2 mb-0" id="sampled">{shown}</p>'
        page: bytes = super().render_string(template_name, **kwargs)
        return page.replace(TABLE, note.encode() + TABLE, 1)


class OrderedWorkerView(WorkerView):  # type: ignore[misc]  # see above
    """The page of a worker; its counts include ordered tasks."""

    def render_string(self, template_name: str, **kwargs: Any) -> bytes:
        """Return the page."""
        worker = kwargs.get("worker")
        if isinstance(worker, dict) and isinstance(worker.get("stats"), dict):
            total = worker["stats"].get("total") or {}
            counts = {**ordered_tasks(self.application.events.state.metrics.events, worker["name"]), **total}
            kwargs["worker"] = {**worker, "stats": {**worker["stats"], "total": counts}}
        page: bytes = super().render_string(template_name, **kwargs)
        return page


def ordered_tasks(events: Any, worker: str) -> dict[str, int]:
    """Return how many tasks *worker* has finished, by name, as counted in *events*, which holds the tasks that it reported."""
    counts: Counter[str] = Counter()
    for metric in events.collect():
        for sample in metric.samples:
            labels = sample.labels
            is_end = labels.get("type") in {"task-succeeded", "task-failed"} and sample.name.endswith("_total")
            if is_end and labels["worker"] == worker and labels["task"].startswith(NAMES):
                counts[labels["task"]] += int(sample.value)
    return dict(counts)


def _require_known(config: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    known = {name.replace("-", "_") for name in options}
    variables = {f"{ENV_PREFIX}{name.upper()}" for name in known} | OTHER_VARIABLES
    unknown = [
        (name, known)
        for name, value in config.items()
        if name not in known and not name.startswith("_") and isinstance(value, PLAIN)
    ]
    unknown += [
        (name, variables)
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX) and name not in variables and not name.startswith(SERVICE_VARIABLES)
    ]
    if unknown:
        name, names = unknown[0]
        similar = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {similar[0]}?" if similar else ""
        raise SystemExit(f"{config.get('__file__', 'flowerconfig.py')}: Flower has no option {name}{hint}")
