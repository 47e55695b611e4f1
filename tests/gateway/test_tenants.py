from __future__ import annotations

import pytest

from gateway.errors import ApiError
from gateway.tenants import Tenants
from tests.gateway.harness import configured, pool

LISTED = [{"name": "gold", "priority": {"min": -5, "max": 5}}]


def tenants(listed: list[dict[str, object]] | None = None) -> Tenants:
    return Tenants(configured(pool("p", "http://127.0.0.1:1"), tenants=LISTED if listed is None else listed))


def test_a_header_names_the_tenant_and_its_settings_hold() -> None:
    name, settings = tenants().of({b"x-headway-tenant": b"gold"})
    assert (name, settings.priority.clamp(-99)) == ("gold", -5)


def test_a_key_that_is_a_tenants_name_does_as_well() -> None:
    assert tenants().of({b"authorization": b"Bearer gold"})[0] == "gold"


@pytest.mark.parametrize("headers", [{}, {b"authorization": b"Bearer sk-1"}, {b"authorization": b"Basic gold"}])
def test_everybody_else_is_default_and_cannot_choose_a_priority(headers: dict[bytes, bytes]) -> None:
    name, settings = tenants().of(headers)
    assert (name, settings.priority.clamp(-99)) == ("default", 0)


def test_a_tenant_that_is_not_listed_is_held_to_the_defaults() -> None:
    name, settings = tenants().of({b"x-headway-tenant": b"new"})
    assert (name, settings.priority.clamp(-99)) == ("new", 0)


@pytest.mark.parametrize("name", [b"two words", b"-x", b"a" * 65, b"caf\xe9"])
def test_a_name_that_cannot_be_one(name: bytes) -> None:
    with pytest.raises(ApiError, match="is no name") as caught:
        tenants().of({b"x-headway-tenant": name})
    assert caught.value.status == 400
