from __future__ import annotations

from dataclasses import asdict, fields, replace

from controller.records import RecordLog, row
from controller.types import Alternative, Choice, Result, Scores
from tests.controller.planes import LADDER, finish, plane, record_of, refused, submit


def test_the_writer_gets_each_record_once_and_the_operator_the_last_ones() -> None:
    control = plane(max_inflight=8)
    for index in range(3):
        submit(control, f"{index}", 0.0)
    control.dispatch(0.0)
    for index in range(3):
        finish(control, f"{index}", 1.0)
    assert [record.ticket for record in control.drain_records()] == ["0", "1", "2"]
    assert control.drain_records() == ()
    assert [record.ticket for record in control.records.recent(2)] == ["2", "1"]
    assert control.records.find("1") is not None
    assert control.records.find("9") is None


def test_a_late_writer_costs_the_oldest_records_and_the_loss_is_counted() -> None:
    control = plane(max_inflight=8)
    log = RecordLog(recent=2, pending=3)
    for index in range(5):
        submit(control, f"{index}", 0.0)
    control.dispatch(0.0)
    for index in range(5):
        finish(control, f"{index}", 1.0)
        log.add(record_of(control, f"{index}"))
    assert [record.ticket for record in log.drain()] == ["2", "3", "4"]
    assert (log.dropped, log.written) == (2, 5)
    assert len(log.recent(9)) == 2


def test_only_so_many_records_are_shown_and_kept_drained_or_not() -> None:
    control = plane()
    submit(control, "a", 0.0)
    control.on_abort("a", 1.0)
    record = record_of(control, "a")
    log = RecordLog(recent=3, pending=10_000)
    for number in range(1000):
        log.add(replace(record, ticket=f"{number}"))
        assert len(log._recent) <= 100
    for _ in range(2):
        assert [found.ticket for found in log.recent(9)] == ["999", "998", "997"]
        assert (log.find("997") is None, log.find("996") is None) == (False, True)
        log.drain()
    assert len(log._recent) == 3
    assert RecordLog(recent=0, pending=1).recent(5) == ()


def test_rows_have_the_same_columns_whatever_became_of_the_request() -> None:
    control = plane({"tier": "router"}, pools=LADDER, workers=1)
    scores = Scores(length_rank=0.3, output_tokens=40.0, quality={"small": 0.2, "large": 0.7})
    submit(control, "served", 0.0, scores, max_tokens=64)
    control.dispatch(0.0)
    finish(control, "served", 2.0, 30)
    refused(control, "refused", 3.0, model="nothing")
    submit(control, "left", 4.0)
    control.on_abort("left", 5.0)
    rows = {record.ticket: row(record) for record in control.drain_records()}
    assert {tuple(found) for found in rows.values()} == {tuple(rows["served"])}
    served = rows["served"]
    assert served["result"] == Result.COMPLETED == "completed"
    assert (served["length_rank"], served["predicted_output_tokens"]) == (0.3, 40.0)
    assert served["quality"] == [{"pool": "small", "quality": 0.2}, {"pool": "large", "quality": 0.7}]
    assert served["usage_output_tokens"] == 30
    assert [choice["stage"] for choice in served["choices"]] == ["admit", "tier", "order", "place"]
    assert (rows["refused"]["result"], rows["refused"]["code"]) == ("rejected", "model_not_found")
    assert (rows["left"]["result"], rows["left"]["code"]) == ("aborted", "client_left")
    assert rows["left"]["pool"] is None


def test_every_field_of_a_choice_is_in_its_row() -> None:
    choice = Choice("tier", "t", "p", (Alternative("p", 0.5, False, "w"),), 0.25, "timeout", (1.0, 2.0), "sha")
    control = plane()
    submit(control, "a", 0.0)
    control.on_abort("a", 1.0)
    (shown,) = row(replace(record_of(control, "a"), choices=(choice,)))["choices"]
    assert shown == asdict(choice)
    assert all(field.name in shown for field in fields(Choice))
