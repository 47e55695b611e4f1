from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from controller.configuration import Configuration, PriorityRange, Tenant, TenantLimits, parse
from controller.configuration.credentials import RANDOM_BYTES, StoredKey
from controller.errors import ConfigurationError
from controller.limits import Quota

ROOT = Path(__file__).resolve().parents[3]
POOL = {"name": "p", "model": "m", "tier": 0, "workers": [{"url": "http://127.0.0.1:1"}]}
STORED = str(StoredKey.issue(bytes(range(RANDOM_BYTES)))[1])


def configuration(**more: Any) -> Configuration:
    return parse({"pools": [POOL], **more})


def problems(**more: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        configuration(**more)
    return str(caught.value)


@given(st.integers(), st.integers(), st.integers())
def test_priorities_are_clamped_to_the_range(a: int, b: int, priority: int) -> None:
    allowed = PriorityRange(min=min(a, b), max=max(a, b))
    clamped = allowed.clamp(priority)
    assert allowed.min <= clamped <= allowed.max
    assert clamped == priority or not allowed.min <= priority <= allowed.max


def test_a_range_is_not_upside_down() -> None:
    assert "min <= max" in problems(tenants=[{"name": "t", "priority": {"min": 1, "max": 0}}])


def test_limits_are_the_tenants_own_and_otherwise_everybodys() -> None:
    own = {"requests_per_minute": 120, "concurrency": None}
    everybodys = {"requests_per_minute": 60, "concurrency": 5, "max_tokens": 100}
    found = configuration(tenants=[{"name": "t", "limits": own}, {"name": "u"}], limits={"tenant": everybodys})
    settings = found.control_settings()
    assert settings.quota == Quota(requests_per_s=1.0, concurrency=5)
    assert settings.tenant("t").quota == Quota(requests_per_s=2.0), "null lifts a limit"
    assert settings.tenant("u").quota == settings.quota


def test_by_default_there_are_none() -> None:
    settings = configuration(tenants=[{"name": "t"}]).control_settings()
    assert settings.quota.unlimited
    assert settings.tenant("t").quota.unlimited


@pytest.mark.parametrize("key", sorted(TenantLimits.model_fields))
def test_a_limit_of_nothing_is_a_mistake(key: str) -> None:
    assert f"tenants[0].limits.{key}" in problems(tenants=[{"name": "t", "limits": {key: 0}}])


def test_a_class_is_a_name() -> None:
    found = configuration(tenants=[{"name": "t", "class": "gold"}, {"name": "u"}])
    assert [tenant.class_ for tenant in found.tenants] == ["gold", "standard"]
    assert "tenants[0].class" in problems(tenants=[{"name": "t", "class": "two words"}])
    assert "did you mean 'class'" in problems(tenants=[{"name": "t", "clas": "gold"}])


def test_classes_are_bounded_because_metrics_are() -> None:
    many = [{"name": f"t{index}", "class": f"c{index}"} for index in range(17)]
    assert len(configuration(tenants=many[:16]).tenants) == 16
    assert "tenants[16].class: one more than 16 classes" in problems(tenants=many)


def test_the_mode_may_stand_alone() -> None:
    assert configuration(auth="optional").auth.mode == "optional"
    assert configuration(auth={"operator_keys": [STORED]}).auth.mode == "required"
    assert "auth.mode" in problems(auth="sometimes")


@pytest.mark.parametrize("where", ["tenant", "operator"])
def test_a_key_in_the_clear_is_refused_and_not_repeated(where: str) -> None:
    key, _ = StoredKey.issue(bytes(range(RANDOM_BYTES)))
    given: dict[str, Any] = {"tenants": [{"name": "t", "keys": [key]}]}
    said = problems(**given if where == "tenant" else {"auth": {"operator_keys": [key]}})
    assert "headway tenants key" in said
    assert key not in said


def test_a_short_cache_secret_is_refused_and_not_repeated() -> None:
    said = problems(auth={"cache_secret": "too short"})
    assert "auth.cache_secret" in said
    assert "too short" not in said


def test_a_key_belongs_to_one_holder() -> None:
    said = problems(tenants=[{"name": "t", "keys": [STORED]}, {"name": "u", "keys": [STORED]}])
    assert "tenants[1].keys[0]" in said
    assert "already taken by tenants[0].keys[0]" in said
    assert "auth.operator_keys[0]" in problems(
        tenants=[{"name": "t", "keys": [STORED]}], auth={"operator_keys": [STORED]}
    )


def test_hashes_stay_out_of_what_is_printed() -> None:
    found = configuration(
        tenants=[{"name": "t", "keys": [STORED]}], auth={"operator_keys": [], "cache_secret": "a" * 16}
    )
    assert STORED not in repr(found)
    assert "a" * 16 not in repr(found)
    assert STORED not in repr(found.control_settings())


def test_the_defaults_of_who_is_not_listed() -> None:
    assert configuration().tenant("new") == Tenant.model_construct(name="new")


def test_the_example_in_the_guide_is_one() -> None:
    guide = (ROOT / "docs" / "tenants.md").read_text(encoding="utf-8")
    example = re.search(r"```yaml\n(.*?)```", guide, flags=re.DOTALL)
    assert example is not None
    found = configuration(**yaml.safe_load(example[1]))
    assert found.control_settings().tenant("acme").quota.concurrency == 32
    assert found.control_settings().tenant("batch").quota.concurrency == 4
    assert set(TenantLimits.model_fields) <= set(re.findall(r"`(\w+)`", guide)), "every limit is explained"
