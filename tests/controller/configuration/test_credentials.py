from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.configuration.credentials import RANDOM_BYTES, Credential, StoredKey

RANDOM = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(RANDOM)
def test_a_key_matches_what_is_kept_of_it_after_a_round_through_the_file(random: bytes) -> None:
    key, stored = StoredKey.issue(random)
    credential = Credential.parse(key)
    assert credential is not None
    again = StoredKey.parse(str(stored))
    assert again == stored
    assert again.id == credential.id
    assert again.matches(credential.secret)


@given(RANDOM, st.integers(0, 42), st.sampled_from("ABCabc019_-"))
def test_any_other_secret_does_not(random: bytes, place: int, letter: str) -> None:
    key, stored = StoredKey.issue(random)
    secret = key[-43:]
    other = secret[:place] + letter + secret[place + 1 :]
    assert stored.matches(other) == (other == secret)


def test_the_hash_is_sha_256_of_salt_and_secret() -> None:
    """Pinned, because files are older than the gateways that read them."""
    key, stored = StoredKey.issue(bytes(range(RANDOM_BYTES)))
    assert key == "hw1_0001020304050607_GBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc"
    expected = hashlib.sha256(bytes(range(8, 24)) + key[-43:].encode()).hexdigest()
    assert str(stored) == f"hw1$0001020304050607${bytes(range(8, 24)).hex()}${expected}"


def test_neither_shows_a_secret_by_accident() -> None:
    key, stored = StoredKey.issue(bytes(RANDOM_BYTES))
    assert key[-43:] not in repr(Credential.parse(key))
    assert stored.digest.hex() not in repr(stored)


@pytest.mark.parametrize(
    "key", ["", "hw1_", "sk-123", "hw1_0001020304050607_short", "hw2_0001020304050607_" + "A" * 43]
)
def test_what_is_no_key(key: str) -> None:
    assert Credential.parse(key) is None


@pytest.mark.parametrize("line", ["", "hw1$$$", "hw1_0001020304050607_" + "A" * 43, "hw1$0$0$0"])
def test_what_is_no_stored_key_is_not_repeated(line: str) -> None:
    with pytest.raises(ValueError, match="hw1\\$ID\\$SALT\\$HASH") as caught:
        StoredKey.parse(line)
    assert len(line) < 8 or line not in str(caught.value)


def test_a_key_needs_all_of_its_randomness() -> None:
    with pytest.raises(ValueError, match="56 random bytes"):
        StoredKey.issue(b"short")
