from __future__ import annotations

import pytest

from controller.configuration import parse
from controller.errors import ConfigurationError

POOLS = [{"name": "p", "model": "m", "tier": 0, "workers": [{"url": "http://w:8000"}]}]


def test_a_gateway_is_its_own_cluster_unless_told_otherwise() -> None:
    cluster = parse({"pools": POOLS}).cluster
    assert cluster.redis is None
    assert cluster.prefix == "headway"


def test_the_stores_address_is_a_secret() -> None:
    cluster = parse({"pools": POOLS, "cluster": {"redis": "rediss://:hush@store:6380/1", "member": "gw-0"}}).cluster
    assert cluster.redis is not None
    assert cluster.redis.get_secret_value() == "rediss://:hush@store:6380/1"
    assert "hush" not in repr(cluster)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"redis": "store:6379"}, "redis must be a URL like redis://HOST:6379/0"),
        ({"redis": "http://:hush@store"}, "redis must be a URL like redis://HOST:6379/0"),
        ({"lease_s": 1}, "greater than or equal to 5"),
        ({"prefx": "x"}, "did you mean 'prefix'?"),
    ],
)
def test_what_is_wrong_is_said_without_repeating_the_address(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse({"pools": POOLS, "cluster": wrong})
    assert says in str(refused.value)
    assert "hush" not in str(refused.value)
