"""A policy of the demo as the gateway that is started under it reads it."""

from __future__ import annotations

from cli.demo.policies import DemoPolicy
from cli.demo.runner import DemoWorkers
from controller.configuration import Configuration, parse


def as_a_gateway_reads(workers: DemoWorkers, policy: DemoPolicy) -> Configuration:
    """With a worker in each pool."""
    pools = [
        {**{key: value for key, value in pool.items() if key not in ("max_inflight", "priority_scheduling")},
         "workers": [{"url": f"http://127.0.0.1:{1000 + pool['tier']}"}]}
        for pool in workers.pools
    ]  # fmt: skip
    return parse({"pools": pools, "stages": dict(policy.stages), "scoring": dict(policy.scoring)})
