from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.isolation import CacheKey, kept_secret

SECRET = bytes(32)


@given(st.text(max_size=20), st.text(max_size=20))
def test_salts_differ_by_tenant_and_by_the_clients_own(own: str, other: str) -> None:
    a, b = CacheKey(SECRET, "a"), CacheKey(SECRET, "b")
    assert a.salt(own) != b.salt(own)
    assert a.salt(own) == CacheKey(SECRET, "a").salt(own)
    assert (a.salt(own) == a.salt(other)) == (own == other)
    assert 1 <= len(a.salt(own)) <= 1024, "what vLLM takes"


def test_a_lone_surrogate_is_a_salt_too() -> None:
    key = CacheKey(SECRET, "a")
    assert key.salt("\ud800") != key.salt()


def test_a_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    secret = kept_secret(home)
    assert len(secret) == 32
    assert kept_secret(home) == secret
    [file] = home.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(kept_secret, [tmp_path] * 32))) == 1
    assert len(list(tmp_path.iterdir())) == 1, "nothing is left behind"


def test_without_a_home_it_lasts_as_long_as_the_process() -> None:
    assert kept_secret(None) != kept_secret(None)


def test_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    kept_secret(tmp_path)
    next(tmp_path.iterdir()).write_bytes(b"")
    with pytest.raises(OSError, match="delete it"):
        kept_secret(tmp_path)
