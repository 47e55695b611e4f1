"""The dashboard, the alerts and the document, held to the metrics of a gateway that has seen everything."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.harness import HELLO, Gateway, Worker, begin, configured, drive, event, pool, serving, until
from tests.gateway.scripted import Model
from tests.upstream.kv_publisher import Publisher
from tests.upstream.servers import Exchange, Server

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/headway.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
STREAM = {"model": "p", "stream": True, "temperature": 0, "messages": [{"role": "user", "content": "hello"}]}
BROKEN = {**STREAM, "response_format": {"type": "json_object"}}
PARTS = ("_bucket", "_sum", "_count")


@dataclass
class Family:
    """One metric of a page. Names are those in queries."""

    kind: str
    labels: set[str] = field(default_factory=set)
    values: dict[str, set[str]] = field(default_factory=dict)


class Engine:
    """Workers that do what a fleet does in a bad hour: they refuse, break off, and let others go on."""

    def __init__(self) -> None:
        self.model = Model(every=30)
        self.fails = self.cuts = 0

    async def __call__(self, exchange: Exchange) -> None:
        if self.fails:
            self.fails -= 1
            await exchange.reply(b"", 500)
            return
        body = exchange.json
        if not body.get("stream"):
            await exchange.reply_json({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
            return
        await begin(exchange)
        if "response_format" in body:
            await exchange.chunk(event("{"))
            await asyncio.sleep(0.02)
            exchange.kill()
            return
        events = self.model.events(exchange.path, body)
        cut = self.cuts > 0
        self.cuts -= cut
        for one in events[: len(events) // 2 if cut else None]:
            await exchange.chunk(one)
            await asyncio.sleep(0.001)
        if cut:
            exchange.kill()
        else:
            await exchange.end()


async def _busy(gateway: Gateway, engine: Engine) -> None:
    for asked in (HELLO, STREAM, {**HELLO, "model": "unknown"}):
        await gateway.ask(asked, headers={"x-headway-tenant": "gold"})
    await gateway.ask(b"{")
    assert (await gateway.ask(HELLO, headers={"x-headway-tenant": "small"}))[0] == 200
    assert (await gateway.ask(HELLO, headers={"x-headway-tenant": "small"}))[0] == 429
    engine.fails = 1
    assert (await gateway.ask(HELLO))[0] == 200
    engine.cuts = 1
    assert b"[DONE]" in (await gateway.ask(STREAM))[1]
    assert b"cannot be continued" in (await gateway.ask(BROKEN))[1]


def _served() -> str:
    """The page of a gateway that all of this has happened to."""
    page: list[str] = []

    async def collect(exchange: Exchange) -> None:
        await exchange.reply(b"")

    async def scenario() -> None:
        engine, publisher = Engine(), Publisher()
        async with Server(collect) as collector, Worker(engine) as one, Worker(engine) as two, Worker(engine) as big:
            settings: dict[str, Any] = {
                "stages": {"tier": "best_effort", "fairness": "vtc", "place": "round_robin"},
                "retries": {"backoff_s": 0.0},
                "tenants": [
                    {"name": "gold", "class": "paying"},
                    {"name": "small", "class": "trying", "limits": {"requests_per_minute": 1}},
                ],
                "tracing": {"endpoint": f"{collector.url}/v1/traces"},
            }
            pools = pool("p", one, two), pool("q", big, tier=1)
            pools[0]["workers"][0]["kv_events"] = {"endpoint": publisher.events}
            async with serving(configured(*pools, **settings)) as here:
                await until(lambda: here.app.runtime.ready_workers() == {"p": 2, "q": 1})
                await _busy(here, engine)
                await asyncio.sleep(0.1)  # a report of each worker
                page.append(await here.page())
        await publisher.close()

    drive(scenario)
    return page[0]


@pytest.fixture(scope="module")
def families() -> dict[str, Family]:
    """Every metric of the page."""
    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(_served()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        one = found.setdefault(name, Family(family.type))
        for sample in family.samples:
            one.labels |= set(sample.labels) - {"le"}
            for label, value in sample.labels.items():
                one.values.setdefault(label, set()).add(value)
    return found


def queries() -> Iterator[tuple[str, str, list[str]]]:
    """Where, the expression, and the labels that are shown of it."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            shown = re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"])
            yield f"panel {panel['title']!r}", target["expr"], shown
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            yield f"variable {variable['name']}", f"sum by ({label}) ({metric})", [label]
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            shown = re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))
            yield f"alert {rule['alert']}", rule["expr"], shown


QUERIES = list(queries())
_METRIC = re.compile(r"\b(headway_\w+)\s*(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


def _family(name: str, families: dict[str, Family]) -> Family:
    for part in PARTS:
        base = name.removesuffix(part)
        if base != name and base in families and families[base].kind == "histogram":
            return families[base]
    assert name in families, f"there is no metric {name}"
    assert families[name].kind != "histogram", f"{name} is a histogram: it has {', '.join(PARTS)} only"
    return families[name]


@pytest.mark.parametrize("where, expr, shown", QUERIES, ids=[where for where, _, _ in QUERIES])
def test_a_query_asks_for_what_there_is(where: str, expr: str, shown: list[str], families: dict[str, Family]) -> None:
    for opening, closing in ("()", "[]", "{}"):
        assert expr.count(opening) == expr.count(closing), expr
    used = _METRIC.findall(expr)
    assert used, expr
    grouped = {label.strip() for labels in _GROUPING.findall(expr) for label in labels.split(",")} - {"le"}
    for name, matchers in used:
        family = _family(name, families)
        assert grouped <= family.labels, f"{name} has the labels {sorted(family.labels)}: {expr}"
        assert not _MATCHER.sub("", matchers).replace(",", "").strip(), f"not understood: {matchers}"
        for label, operator, value in _MATCHER.findall(matchers):
            assert label in family.labels, f"{name} has no label {label}: {expr}"
            if "$" not in value:
                wanted = set(value.split("|")) if "~" in operator else {value}
                assert wanted <= family.values[label], f"{name} never has {label}={value!r}: {expr}"
    if grouped:
        assert set(shown) <= grouped, f"{where} shows {shown}, and groups by {sorted(grouped)}"


@pytest.mark.parametrize("where, expr, shown", QUERIES, ids=[where for where, _, _ in QUERIES])
def test_counters_are_only_asked_how_fast_they_grow(
    where: str, expr: str, shown: list[str], families: dict[str, Family]
) -> None:
    for name, _ in _METRIC.findall(expr):
        if _family(name, families).kind in ("counter", "histogram") and not where.startswith("variable"):
            assert re.search(rf"\b(rate|increase)\(\s*{name}\b", expr), expr


def test_whatever_is_measured_is_on_the_dashboard(families: dict[str, Family]) -> None:
    asked = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ()))
    shown = {name for name, family in families.items() if re.search(rf"\b{name}(_bucket)?\b", asked)}
    assert set(families) == shown


def test_the_document_has_every_metric_as_it_is(families: dict[str, Family]) -> None:
    text = (ROOT / "docs/observability.md").read_text()
    row = r"^\| `(headway_\w+)` \| (\w+) \| ([^|]+) \|([^|]*)\| ([^|]+) \|$"
    rows = re.findall(row, text, flags=re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, _, labels, _ in rows}
    assert len(documented) == len(rows)
    assert documented == {name: (family.kind, family.labels) for name, family in families.items()}


def test_metrics_are_called_as_prometheus_wants_it(families: dict[str, Family]) -> None:
    for name, family in families.items():
        assert re.fullmatch(r"headway_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (family.kind == "counter")
        assert family.kind != "histogram" or name.endswith("_seconds")


def test_every_histogram_of_requests_is_by_pool_and_class(families: dict[str, Family]) -> None:
    by = {name: family.labels for name, family in families.items() if family.kind == "histogram"}
    assert by.pop("headway_decision_seconds") == {"step"}
    assert len(by) == 7
    assert all(labels == {"pool", "class"} for labels in by.values())


def test_the_dashboard_is_one_for_grafana_10() -> None:
    assert DASHBOARD["schemaVersion"] >= 38
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert {target["refId"] for target in panel["targets"]} <= set("ABC")
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    asked = " ".join(target["expr"] for panel in panels for target in panel.get("targets", ()))
    assert set(re.findall(r"\$\{?([a-z]\w*)", asked)) == variables - {"datasource"}


def test_connections_of_clients_are_counted_while_they_are_open_and_after() -> None:
    async def scenario() -> None:
        async with Worker(Engine()) as worker, serving(configured(pool("p", worker))) as gateway:
            clients = gateway.app.runtime.clients
            streams = [await asyncio.open_connection(*gateway.url.removeprefix("http://").split(":")) for _ in range(3)]
            await until(lambda: (clients.now, clients.total) == (3, 3))
            for _, writer in streams:
                writer.close()
            await until(lambda: (clients.now, clients.total) == (0, 3))

    drive(scenario)
