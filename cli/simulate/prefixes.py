"""Whether the engines of a simulation keep prefixes."""

from __future__ import annotations

from cli.simulate.machines import Machines
from cli.simulate.workload import Workload

__all__ = ["keeps_prefixes"]


def keeps_prefixes(asked: bool | None, workload: Workload, machines: Machines) -> bool:
    """What was asked for; if nothing was, they do where the workload has prefixes.

    Raises:
        ValueError: they are to keep prefixes that the workload does not have, or whose blocks are not made of theirs.
    """
    tokens = workload.prefix_block
    if asked is False or (asked is None and tokens is None):
        return False
    if tokens is None:
        raise ValueError("--prefix-caching: the trace says of no two prompts that they begin alike; leave it out")
    for worker in machines.workers:
        size = worker.profile.block_size
        if tokens % size:
            raise ValueError(
                f"the trace tells prefixes in blocks of {tokens} tokens, but the KV blocks of profile "
                f"{worker.profile.name} hold {size}, of which that is no multiple; add --no-prefix-caching"
            )
    return True
