from __future__ import annotations

import asyncio
import json

from tests.gateway.harness import (
    HELLO,
    Gateway,
    Worker,
    chat,
    configured,
    drive,
    hold,
    pool,
    serving,
    until,
    with_gateway,
)


def test_the_fleet_has_every_pool_and_worker() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        fleet = await gateway.get("/admin/fleet")
        (one,) = fleet["pools"]
        assert (one["name"], one["model"], one["ready"], one["limit"]) == ("p", "p-model", 1, 3)
        (listed,) = one["workers"]
        assert (listed["name"], listed["url"], listed["phase"]) == ("p-0", worker.url, "ready")

    with_gateway(chat, scenario, max_inflight=3)


def test_the_queue_shows_who_waits() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        tasks = [asyncio.ensure_future(gateway.ask(HELLO, headers={"X-Headway-Tenant": "t"})) for _ in range(3)]
        await until(lambda: len(gateway.app.runtime.plane.queued()) == 2)
        queue = await gateway.get("/admin/queue?limit=1")
        assert queue["running"] == 1
        (waiting,) = queue["waiting"]
        assert (waiting["tenant"], waiting["pool"], waiting["stand"]) == ("t", "p", "queued")
        assert waiting["since_s"] >= 0
        for task in tasks:
            task.cancel()

    with_gateway(hold, scenario, max_inflight=1)


def test_a_decision_is_found_by_its_ticket_and_explained_in_words() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        async with await gateway.post(HELLO) as response:
            ticket = (response.header(b"x-headway-ticket") or b"").decode()
        decision = await gateway.get(f"/admin/decisions/{ticket}")
        assert (decision["result"], decision["pool"], decision["worker"]) == ("completed", "p", "p-0")
        assert [choice["stage"] for choice in decision["choices"]][-1] == "place"
        assert "Which worker? p-0" in decision["explanation"]
        assert (await gateway.get("/admin/decisions?limit=1"))[0]["ticket"] == ticket
        assert "hello" not in json.dumps(decision)

    with_gateway(chat, scenario)


def test_what_is_not_there_or_not_a_number_is_said_in_openais_shape() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        assert (await gateway.get("/admin/decisions/nope"))["error"]["code"] == "decision_not_found"
        wrong = await gateway.get("/admin/decisions?limit=many")
        assert (wrong["error"]["code"], wrong["error"]["param"]) == ("invalid_value", "limit")

    with_gateway(chat, scenario)


def test_the_summary_adds_up() -> None:
    async def scenario(gateway: Gateway, worker: Worker) -> None:
        for _ in range(3):
            await gateway.ask(HELLO)
        await gateway.error({**HELLO, "model": "nope"})
        await asyncio.sleep(0.15)
        summary = await gateway.get("/admin/summary")
        assert summary["outcomes"] == {"completed": 3, "rejected": 1, "failed": 0, "aborted": 0}
        assert summary["mix"] == {"p": 3}
        assert summary["tokens"] == {"prompt": 21, "output": 9}
        assert {stage["stage"] for stage in summary["stages"]} >= {"tier", "score"}
        assert {one["ref"]: one["state"] for one in summary["artifacts"]}["length/fast"] == "absent"

    with_gateway(chat, scenario)


def test_a_token_closes_every_admin_endpoint_and_nothing_else() -> None:
    async def scenario() -> None:
        async with Worker(chat) as worker:
            closed = configured(pool("p", worker), admin={"token": "open sesame"})
            async with serving(closed) as gateway:
                for path in ("fleet", "queue", "decisions", "decisions/x", "summary"):
                    for headers in ([], [(b"authorization", b"Bearer open")], [(b"authorization", b"open sesame")]):
                        answer = await gateway.get(f"/admin/{path}", headers)
                        assert answer["error"]["code"] == "invalid_admin_token"
                right = [(b"authorization", b"Bearer open sesame")]
                assert (await gateway.get("/admin/fleet", right))["pools"][0]["name"] == "p"
                assert (await gateway.ask(HELLO))[0] == 200
                assert (await gateway.get("/health"))["status"] == "ok"

    drive(scenario)
