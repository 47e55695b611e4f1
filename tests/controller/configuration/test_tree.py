from __future__ import annotations

import pytest
from pydantic import ValidationError

from controller.configuration import Configuration, parse
from controller.settings import TenantSpec
from controller.types import Scale
from tests.controller.configuration.fleets import fleet, pool


def test_auto_stands_for_every_pool_lowest_tier_first() -> None:
    data = fleet()
    data["pools"].reverse()
    assert parse(data).alias_pools() == {"auto": ("small", "large")}
    assert parse({**data, "aliases": {"best": ["large"]}}).alias_pools() == {"best": ("large",)}
    assert parse({**data, "aliases": {}}).alias_pools() == {}


def test_tenants_that_are_not_listed_have_the_defaults() -> None:
    configuration = parse(fleet(tenants=[{"name": "batch", "weight": 0.5, "tier_ceiling": 0}]))
    assert configuration.tenant("batch").weight == 0.5
    assert configuration.tenant("anyone / at all").weight == 1.0
    assert configuration.tenant("anyone").priority.clamp(-5) == 0


def test_the_control_plane_is_told_its_settings() -> None:
    configuration = parse(
        fleet(
            limits={"max_queue": 9, "max_queue_seconds": 8, "drop_late": False},
            retries={"attempts": 2, "backoff_s": 0.5, "breaker_errors": 4, "breaker_s": 6, "no_worker_s": 1},
            scoring={"budget_ms": 7},
            tenants=[{"name": "batch", "weight": 0.5, "tier_ceiling": 0}],
        )
    )
    settings = configuration.control_settings({"small": 900.0})
    assert (settings.max_queue, settings.max_queue_s, settings.drop_late) == (9, 8.0, False)
    assert (settings.max_attempts, settings.retry_backoff_s) == (2, 0.5)
    assert (settings.breaker_errors, settings.breaker_s, settings.no_worker_s) == (4, 6.0, 1.0)
    assert settings.scoring_budget_s == pytest.approx(0.007)
    assert settings.service_rates == {"small": 900.0}
    assert settings.tenants == {"batch": TenantSpec(0.5, 0)}


def test_defaults_agree_with_the_control_planes_own() -> None:
    from controller.settings import ControlSettings

    assert parse(fleet()).control_settings() == ControlSettings()


def test_pools_are_found_by_name() -> None:
    configuration = parse(pool(1, actuator={"command": ["x", "{port}"]}, replicas={"min": 1, "max": 3, "initial": 2}))
    assert configuration.pool("large").tier == 1
    assert configuration.initial_scale() == (Scale("large", 2, "configured at start-up"),)
    assert [spec.name for spec in configuration.pool_specs()] == ["small", "large"]
    assert [spec.name for spec in configuration.worker_specs()] == ["small-0", "large-0"]
    with pytest.raises(KeyError):
        configuration.pool("medium")


def test_the_tree_is_frozen_and_closed() -> None:
    configuration = parse(fleet())
    with pytest.raises(ValidationError):
        configuration.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="unknown key"):
        Configuration.model_validate(fleet(polls=[]))
