"""The Grafana dashboard and the alert rules ask for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from tests.nodes.promtool import needs_promtool, promtool
from tests.unit.client.metrics.readings import FULL

from livethread.metrics.families import families, redis_up
from livethread_worker.embedded.deployment_files import deployment_root

CONFIG: Final = deployment_root() / "config"
ALERTS: Final = CONFIG / "prometheus" / "alerts.yml"
DASHBOARD: Final[dict[str, Any]] = json.loads((CONFIG / "grafana" / "livethread.json").read_text(encoding="utf-8"))
PANELS: Final[list[dict[str, Any]]] = DASHBOARD["panels"]
EXPRESSIONS: Final[list[str]] = [target["expr"] for panel in PANELS for target in panel["targets"]]
RULE_TESTS: Final = Path(__file__).with_name("alerts_test.yml")

SAMPLES: Final = [sample for family in (redis_up(answers=True), *families(FULL)) for sample in family.samples]
#: Name -> its labels.
EXPORTED: Final = {sample.name: sample.labels.keys() for sample in SAMPLES}


def selectors(text: str) -> list[tuple[str, str]]:
    """Return each metric in *text*, and the labels that are asked of it, as they stand there."""
    return re.findall(r"\b(livethread_\w+)(?:\{([^}]*)\})?", text)


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_a_panel_asks_for_metrics_and_labels_that_are_exported(expr: str) -> None:
    asked = selectors(expr)

    assert asked
    for name, labels in asked:
        assert name in EXPORTED
        assert set(re.findall(r'(\w+)="', labels)) - {"instance"} <= EXPORTED[name]
    grouped = re.findall(r"\bby \((\w+)\)", expr)
    assert set(grouped) <= EXPORTED[asked[0][0]]


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {name for expr in EXPRESSIONS for name, _ in selectors(expr)}

    assert EXPORTED.keys() - shown == set()


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(set(ids)) == len(ids)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_the_data_source_is_a_variable() -> None:
    variables = {variable["name"]: variable["type"] for variable in DASHBOARD["templating"]["list"]}
    sources = [thing["datasource"]["uid"] for panel in PANELS for thing in (panel, *panel["targets"])]

    assert variables == {"datasource": "datasource", "instance": "query"}
    assert set(sources) == {"${datasource}"}


def test_an_alert_asks_for_metrics_that_are_exported_and_says_what_to_do() -> None:
    rules = ALERTS.read_text(encoding="utf-8").split("- alert: ")[1:]

    for rule in rules:
        [expr] = re.findall(r"^ +expr: (.+)$", rule, re.MULTILINE)
        assert {name for name, _ in selectors(expr)} <= EXPORTED.keys()
        assert re.search(r"^ +summary: \w", rule, re.MULTILINE), rule
        assert re.search(r"^ +description: >-\n +\S", rule, re.MULTILINE), rule
        assert re.search(r"^ +runbook_url: docs/operations\.md#[a-z-]+$", rule, re.MULTILINE), rule


def test_every_alert_has_a_test() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text(encoding="utf-8"))
    tested = re.findall(r"alertname: (\w+)", RULE_TESTS.read_text(encoding="utf-8"))

    assert set(tested) == set(alerts)
    assert len(set(alerts)) == len(alerts)


@needs_promtool
def test_alerts_begin_and_end_when_they_should() -> None:
    """alerts_test.yml: time series in, alerts and their texts out."""
    assert promtool("check", "rules", "--lint-fatal", str(ALERTS)) == ""
    assert promtool("test", "rules", str(RULE_TESTS)) == ""


@needs_promtool
def test_promtool_parses_each_panel(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "5m")}
        for number, expr in enumerate(EXPRESSIONS)
    ]
    path = tmp_path / "panels.json"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")

    assert promtool("check", "rules", str(path)) == ""
