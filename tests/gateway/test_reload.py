from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.configuration import Configuration, load, parse
from controller.errors import ConfigurationError
from controller.types import WorkerPhase, WorkerSpec
from gateway.reload import RestartNeeded, changed_keys, worker_changes
from gateway.roster import Roster, Source
from tests.gateway.harness import (
    HELLO,
    STREAM,
    Gateway,
    Worker,
    chat,
    configured,
    drive,
    held_until,
    pool,
    serving,
    until,
)


class Changing:
    """A configuration file that the test rewrites."""

    def __init__(self, *pools: dict[str, Any], **settings: Any) -> None:
        self.read: Callable[[], Configuration]
        self.now = configured(*pools, **settings)

    def becomes(self, *pools: dict[str, Any], **settings: Any) -> None:
        self.now = configured(*pools, **settings)

    def __call__(self) -> Configuration:
        return self.now


async def reload(gateway: Gateway) -> tuple[int, Any]:
    async with gateway.client.stream(b"POST", gateway.url + "/admin/reload") as response:
        return response.status, json.loads(await response.body())


async def workers(gateway: Gateway) -> dict[str, tuple[str, str, int]]:
    fleet = await gateway.get("/admin/fleet")
    found = [worker for pool in fleet["pools"] for worker in pool["workers"]]
    return {worker["name"]: (worker["url"], worker["phase"], worker["limit"]) for worker in found}


def test_workers_come_go_and_change_while_a_stream_runs() -> None:
    go_on = asyncio.Event()

    held = held_until(go_on)

    async def scenario() -> None:
        async with Worker(held) as old, Worker(held) as stays, Worker(held) as new:
            file = Changing(pool("p", old, stays, max_inflight=4))
            async with serving(file.now, load=file) as gateway:
                stream = await gateway.post({**HELLO, "stream": True})
                assert len(old.asked_for) == 1
                file.becomes(pool("p", stays, new, max_inflight=9))
                assert await reload(gateway) == (200, {"changed": ["pools"]})
                await until(lambda: gateway.app.runtime.ready_workers() == {"p": 2})
                shown = await workers(gateway)
                assert shown["p-0"][:2] == (old.url, "draining")
                assert shown["p-1"] == (stays.url, "ready", 9)
                assert shown["p-2"] == (new.url, "ready", 9)
                for _ in range(8):
                    assert (await gateway.ask(HELLO))[0] == 200
                assert len(old.asked_for) == 1
                assert stays.asked_for
                assert new.asked_for
                go_on.set()
                assert await stream.body() == STREAM
                await until(lambda: gateway.app.runtime.roster.source("p-0") is None)

    drive(scenario)


def test_a_worker_listed_at_another_place_is_another_worker_of_the_same_name() -> None:
    async def scenario() -> None:
        async with Worker(chat) as old, Worker(chat) as new:
            named = {**pool("p"), "workers": [{"name": "a", "url": old.url}]}
            file = Changing(named)
            async with serving(file.now, load=file) as gateway:
                file.becomes({**named, "workers": [{"name": "a", "url": new.url}]})
                assert (await reload(gateway))[0] == 200
                await until(lambda: gateway.app.runtime.ready_workers() == {"p": 1})
                assert (await gateway.ask(HELLO))[0] == 200
                assert (len(old.asked_for), len(new.asked_for)) == (0, 1)

    drive(scenario)


def test_aliases_tenants_limits_and_waits_change_and_an_operators_worker_stays() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker, Worker(chat) as told:
            file = Changing(pool("p", worker))
            async with serving(file.now, load=file) as gateway:
                runtime = gateway.app.runtime
                runtime.roster.add(WorkerSpec("told", "p", told.url), Source.ADMIN)
                assert (await gateway.error({**HELLO, "model": "fast"}))[0] == 404
                file.becomes(
                    pool("p", worker),
                    aliases={"fast": ["p"]},
                    tenants=[{"name": "t", "weight": 3}],
                    limits={"max_body_bytes": 300, "max_queue": 7},
                    retries={"attempts": 5},
                    timeouts={"idle_s": 3},
                    log_level="warning",
                )
                changed = (await reload(gateway))[1]["changed"]
                expected = {"aliases", "tenants", "limits", "retries", "timeouts", "log_level"}
                assert set(changed) == expected
                assert (await gateway.ask({**HELLO, "model": "fast"}))[0] == 200
                assert (await gateway.error({**HELLO, "model": "auto"}))[0] == 404
                status, error = await gateway.error({**HELLO, "user": "u" * 300})
                assert (status, error["code"]) == (413, "request_too_large")
                settings = runtime.plane.settings
                assert (settings.max_queue, settings.max_attempts, settings.tenant("t").weight) == (7, 5, 3)
                assert runtime.relay.settings.timeouts.idle == 3
                assert runtime.roster.source("told") is Source.ADMIN
                assert await reload(gateway) == (200, {"changed": []})

    drive(scenario)


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({"stages": {"tier": "static"}}, ["stages"]),
        ({"seed": 5, "listen": {"port": 1}}, ["listen", "seed"]),
    ],
)
def test_what_needs_a_restart_is_listed_and_nothing_changes(settings: dict[str, Any], keys: list[str]) -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            file = Changing(pool("p", worker))
            async with serving(file.now, load=file) as gateway:
                file.becomes(pool("p", worker, max_inflight=5), aliases={"fast": ["p"]}, **settings)
                status, answer = await reload(gateway)
                assert (status, answer["error"]["code"]) == (409, "restart_needed")
                for key in keys:
                    assert key in answer["error"]["message"]
                assert (await workers(gateway))["p-0"][2] == 32
                assert (await gateway.error({**HELLO, "model": "fast"}))[0] == 404

    drive(scenario)


def test_pools_are_named_by_what_cannot_change() -> None:
    def told(*pools: dict[str, Any]) -> Configuration:
        return parse({"pools": [{"workers": [{"url": f"http://h{p['tier']}:1"}], **p} for p in pools]})

    old = told({"name": "a", "model": "m", "tier": 0}, {"name": "b", "model": "n", "tier": 1})
    with pytest.raises(RestartNeeded) as needed:
        changed_keys(old, told({"name": "a", "model": "other", "tier": 0}, {"name": "c", "model": "n", "tier": 1}))
    assert needed.value.keys == ("pools[0].model", "pools[1] (pool 'c' is new)", "pools (pool 'b' is gone)")


def test_a_bad_file_is_reported_with_its_mistakes_and_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            file = tmp_path / "gateway.yaml"
            good = json.dumps({"pools": [pool("p", worker)]})
            file.write_text(good)
            environment = {"HEADWAY_HOME": str(tmp_path)}
            async with serving(load(file, environment), load=lambda: load(file, environment)) as gateway:
                file.write_text(good.replace('"tier"', '"teir"'))
                status, answer = await reload(gateway)
                assert (status, answer["error"]["code"]) == (422, "invalid_configuration")
                assert "pools[0].teir: unknown key; did you mean 'tier'?" in answer["error"]["message"]
                assert f"{file}:1" in answer["error"]["message"]
                assert (await gateway.ask(HELLO))[0] == 200

    drive(scenario)


def test_a_file_whose_certificates_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker, Worker(chat) as other:
            file = Changing(pool("p", worker))
            async with serving(file.now, load=file) as gateway:
                file.becomes(pool("p", worker, other, upstream={"ca_file": str(tmp_path / "none")}))
                status, answer = await reload(gateway)
                assert (status, "No such file" in answer["error"]["message"]) == (422, True)
                assert set(await workers(gateway)) == {"p-0"}

    drive(scenario)


def test_a_new_key_is_used_from_the_reload_on() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            file = Changing(pool("p", worker, upstream={"api_key": "one"}))
            async with serving(file.now, load=file) as gateway:
                await gateway.ask(HELLO)
                file.becomes(pool("p", worker, upstream={"api_key": "two"}))
                assert (await reload(gateway))[0] == 200
                await gateway.ask(HELLO)
                assert [e.headers["authorization"] for e in worker.asked_for] == ["Bearer one", "Bearer two"]

    drive(scenario)


def test_without_a_file_there_is_nothing_to_read_again() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker, serving(configured(pool("p", worker))) as gateway:
            status, answer = await reload(gateway)
            assert (status, "not started from a file" in answer["error"]["message"]) == (422, True)

    drive(scenario)


# The changes themselves.


class NoDriver:
    """Takes whatever the roster tells it."""

    def add_worker(self, spec: WorkerSpec, now: float, phase: WorkerPhase) -> None: ...


def listed(*workers: tuple[int, str | None, int]) -> Configuration:
    entries = [
        {"url": f"http://h{u}:1", "max_inflight": n, **({"name": name} if name else {})} for u, name, n in workers
    ]
    return parse({"pools": [{"name": "p", "model": "m", "tier": 0, "workers": entries}]})


def roster_of(*specs: WorkerSpec, source: Source = Source.CONFIG) -> Roster:
    driver: Any = NoDriver()
    roster = Roster(driver, lambda: 0.0, lambda name: None)
    for spec in specs:
        roster.add(spec, source)
    return roster


ENTRIES = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([None, None, "a", "b", "p-0", "p-2"]), st.integers(1, 3)),
    min_size=1,
    max_size=5,
    unique_by=(lambda entry: entry[0], lambda entry: entry[1] or entry[0]),
)


@given(ENTRIES, ENTRIES)
def test_after_the_changes_there_is_what_is_listed_and_what_stays_keeps_its_name(
    before: list[tuple[int, str | None, int]], after: list[tuple[int, str | None, int]]
) -> None:
    try:
        old, new = listed(*before), listed(*after)
    except ConfigurationError:  # an implied name is taken
        return
    running = {spec.name: spec for spec in old.worker_specs()}
    changes = worker_changes(new, roster_of(*running.values()))
    for name in (*changes.removed, *changes.drained):
        del running[name]
    for spec in changes.added:
        assert spec.name not in running
        running[spec.name] = spec
    for spec in changes.resized:
        assert running[spec.name].url == spec.url
        running[spec.name] = spec
    assert {(spec.url, spec.max_inflight) for spec in running.values()} == {
        (spec.url, spec.max_inflight) for spec in new.worker_specs()
    }
    given_names = {f"http://h{u}:1": name for u, name, _ in after if name}
    assert all(spec.name == given_names.get(spec.url, spec.name) for spec in running.values())
    unchanged = {spec.url for spec in old.worker_specs()} - {spec.url for spec in changes.added}
    stays = {spec.url: spec.name for spec in old.worker_specs() if spec.url in unchanged}
    assert all(running_spec.name == stays.get(running_spec.url, running_spec.name) for running_spec in running.values())


@pytest.mark.parametrize("spec", [WorkerSpec("p-0", "p", "http://other:1"), WorkerSpec("told", "p", "http://h0:1")])
def test_a_name_or_url_of_an_operators_worker_cannot_be_listed(spec: WorkerSpec) -> None:
    roster = roster_of(spec, source=Source.ADMIN)
    wanted = listed((0, "p-0", 1)) if spec.name == "p-0" else listed((0, None, 1))
    with pytest.raises(ConfigurationError, match="DELETE /admin/workers/"):
        worker_changes(wanted, roster)
