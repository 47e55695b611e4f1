from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.configuration import parse
from controller.configuration.credentials import RANDOM_BYTES, StoredKey
from gateway.errors import ApiError
from gateway.tenants import Caller, Tenants
from tests.gateway.harness import pool

LISTED = [{"name": "gold", "priority": {"min": -5, "max": 5}}]


def issued(seed: int) -> tuple[str, str]:
    """A key, and the line for the configuration."""
    key, stored = StoredKey.issue(bytes([seed]) * RANDOM_BYTES)
    return key, str(stored)


ACME, ACME_LINE = issued(1)
ACME_NEW, ACME_NEW_LINE = issued(2)
GLOBEX, GLOBEX_LINE = issued(3)
PROXY, PROXY_LINE = issued(4)
STRANGER, _ = issued(5)
KEYED: list[dict[str, Any]] = [
    {"name": "acme", "keys": [ACME_LINE, ACME_NEW_LINE], "class": "gold", "limits": {"max_tokens": 7}},
    {"name": "globex", "keys": [GLOBEX_LINE]},
    {"name": "open"},
]


def tenants(listed: list[dict[str, Any]] | None = None, **more: Any) -> Tenants:
    data = {"pools": [pool("p", "http://127.0.0.1:1")], "tenants": LISTED if listed is None else listed, **more}
    return Tenants(parse(data))


def keyed(mode: str = "required") -> Tenants:
    return tenants(KEYED, auth={"mode": mode, "operator_keys": [PROXY_LINE]})


def bearer(key: str, tenant: str | None = None) -> dict[bytes, bytes]:
    named = {} if tenant is None else {b"x-headway-tenant": tenant.encode()}
    return {b"authorization": b"Bearer " + key.encode(), **named}


def refused(of: Tenants, headers: dict[bytes, bytes]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        of.identify(headers)
    return caught.value


# Without keys, as ever.


def test_a_header_names_the_tenant_and_its_settings_hold() -> None:
    caller = tenants().identify({b"x-headway-tenant": b"gold"})
    assert (caller.name, caller.settings.priority.clamp(-99)) == ("gold", -5)


def test_a_key_that_is_a_tenants_name_does_as_well() -> None:
    assert tenants().identify({b"authorization": b"Bearer gold"}).name == "gold"
    assert tenants().identify({b"authorization": b"bearer  gold"}).name == "gold"
    assert tenants().identify({b"x-api-key": b"gold"}).name == "gold"


@pytest.mark.parametrize("headers", [{}, {b"authorization": b"Bearer sk-1"}, {b"authorization": b"Basic gold"}])
def test_everybody_else_is_default_and_cannot_choose_a_priority(headers: dict[bytes, bytes]) -> None:
    caller = tenants().identify(headers)
    assert (caller.name, caller.settings.priority.clamp(-99)) == ("default", 0)


def test_a_tenant_that_is_not_listed_is_held_to_the_defaults() -> None:
    caller = tenants(limits={"tenant": {"max_tokens": 5}}).identify({b"x-headway-tenant": b"new"})
    assert (caller.name, caller.settings.priority.clamp(-99), caller.longest_answer) == ("new", 0, 5)


@pytest.mark.parametrize("name", [b"two words", b"-x", b"a" * 65, b"caf\xe9"])
def test_a_name_that_cannot_be_one(name: bytes) -> None:
    error = refused(tenants(), {b"x-headway-tenant": name})
    assert (error.status, error.code) == (400, "invalid_tenant")
    assert "is no name" in error.message


# With keys.


@pytest.mark.parametrize(("key", "name"), [(ACME, "acme"), (ACME_NEW, "acme"), (GLOBEX, "globex")])
def test_a_key_proves_its_tenant(key: str, name: str) -> None:
    assert keyed().identify(bearer(key)).name == name
    assert keyed().identify({b"authorization": b"bEaReR   " + key.encode()}).name == name
    assert keyed().identify({b"x-api-key": key.encode()}).name == name
    assert keyed().identify({b"authorization": b"Bearer sk-other", b"x-api-key": key.encode()}).name == name


def test_its_settings_come_with_it() -> None:
    of = keyed()
    assert of.identify(bearer(ACME)) == Caller("acme", of.identify(bearer(ACME_NEW)).settings, 7, None)
    assert (of.class_of("acme"), of.class_of("globex"), of.class_of("unheard-of")) == ("gold", "standard", "standard")
    assert of.classes == ("gold", "standard")
    assert (of.label_of("acme"), of.label_of("default"), of.label_of("unheard-of")) == ("acme", "default", "other")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({b"x-headway-tenant": b"acme"}, "missing_api_key"),
        ({b"authorization": b"Bearer acme"}, "missing_api_key"),
        ({b"authorization": b"Basic " + ACME.encode()}, "missing_api_key"),
        ({b"authorization": b"Bearer "}, "missing_api_key"),
        ({b"authorization": b"Bearer sk-123"}, "missing_api_key"),
        ({b"authorization": b"Bearer caf\xe9"}, "missing_api_key"),
        (bearer(STRANGER), "invalid_api_key"),
        (bearer(ACME[:-1] + "_"), "invalid_api_key"),
        (bearer(ACME[:21] + GLOBEX[21:]), "invalid_api_key"),
        ({b"x-api-key": STRANGER.encode()}, "invalid_api_key"),
    ],
)
def test_without_a_valid_key_nobody_is_served(headers: dict[bytes, bytes], code: str) -> None:
    error = refused(keyed(), headers)
    assert (error.status, error.code, error.type) == (401, code, "authentication_error")
    assert dict(error.headers())[b"www-authenticate"].startswith(b"Bearer")
    assert not any(key in error.message for key in (ACME, STRANGER))


@given(
    st.text(alphabet="abcdef0123456789", min_size=16, max_size=16), st.from_regex(r"[A-Za-z0-9_-]{43}", fullmatch=True)
)
def test_no_made_up_key_is_valid(id_: str, secret: str) -> None:
    assert refused(keyed(), bearer(f"hw1_{id_}_{secret}")).status == 401
    assert refused(keyed(), bearer(f"{ACME[:21]}{secret}")).status == 401


def test_a_tenant_cannot_name_another() -> None:
    assert keyed().identify(bearer(ACME, "acme")).name == "acme"
    error = refused(keyed(), bearer(ACME, "globex"))
    assert (error.status, error.code, error.param) == (403, "tenant_mismatch", "X-Headway-Tenant")


@pytest.mark.parametrize("name", ["acme", "globex", "open", "unheard-of"])
def test_an_operators_key_may_name_any(name: str) -> None:
    assert keyed().identify(bearer(PROXY, name)).name == name
    assert keyed("optional").identify(bearer(PROXY, name)).name == name


def test_an_operators_key_alone_is_the_default_tenant() -> None:
    assert keyed().identify(bearer(PROXY)).name == "default"
    assert refused(keyed(), bearer(PROXY, "two words")).status == 400


def test_operators_keys_alone_close_the_gateway_too() -> None:
    of = tenants(auth={"operator_keys": [PROXY_LINE]})
    assert refused(of, {b"x-headway-tenant": b"gold"}).status == 401
    assert of.identify(bearer(PROXY, "gold")).name == "gold"


def test_where_keys_are_optional_only_tenants_without_keys_are_believed() -> None:
    of = keyed("optional")
    assert of.identify({}).name == "default"
    assert of.identify({b"x-headway-tenant": b"open"}).name == "open"
    assert of.identify(bearer("sk-of-somebody-else")).name == "default"
    assert of.identify(bearer(GLOBEX)).name == "globex"
    assert refused(of, {b"x-headway-tenant": b"acme"}).status == 401
    assert refused(of, bearer("acme")).status == 401, "a name is not a key"
    assert refused(of, bearer(STRANGER)).status == 401, "a wrong key is not no key"


def test_a_key_meant_for_the_gateway_is_not_meant_for_workers() -> None:
    assert not tenants([]).takes_keys
    assert tenants().takes_keys
    assert tenants([], auth={"operator_keys": [PROXY_LINE]}).takes_keys


# Caches kept apart.


def test_each_isolated_tenant_has_a_cache_key_of_its_own(tmp_path: Path) -> None:
    listed: list[dict[str, Any]] = [
        {"name": "a", "cache_isolation": True},
        {"name": "b", "cache_isolation": True},
        {"name": "c"},
    ]

    def keys(**more: Any) -> list[str | None]:
        of = tenants(listed, **more)
        found = [of.identify({b"x-headway-tenant": name}).cache_key for name in (b"a", b"b", b"c", b"d")]
        return [None if key is None else key.salt() for key in found]

    first, second, *others = keys(auth={"cache_secret": "s" * 16})
    assert first is not None
    assert second is not None
    assert first != second
    assert others == [None, None]
    assert keys(auth={"cache_secret": "s" * 16}) == [first, second, None, None]
    assert keys(auth={"cache_secret": "t" * 16})[0] != first
    assert keys(home=str(tmp_path)) == keys(home=str(tmp_path)), "processes that share a home share the secret"
    assert keys() != keys()


def test_no_secret_is_kept_where_none_is_needed(tmp_path: Path) -> None:
    tenants(KEYED, home=str(tmp_path / "home"))
    assert not (tmp_path / "home").exists()
