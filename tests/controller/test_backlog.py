from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.backlog import Backlog
from controller.types import Ticket


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_the_backlog_is_what_went_in_and_has_not_come_out(added: list[tuple[str, int]], random: Random) -> None:
    backlog = Backlog()
    tickets = [Ticket(f"{index}", "m", tenant, body_bytes=size) for index, (tenant, size) in enumerate(added)]
    for ticket in tickets:
        backlog.add(ticket)
    inside = list(tickets)
    random.shuffle(inside)
    while True:
        assert (backlog.count, backlog.bytes) == (len(inside), sum(ticket.body_bytes for ticket in inside))
        for tenant in "abc":
            mine = [ticket.body_bytes for ticket in inside if ticket.tenant == tenant]
            assert backlog.of(tenant) == (len(mine), sum(mine))
        if not inside:
            break
        backlog.remove(inside.pop())
