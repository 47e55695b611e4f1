from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.errors import ArtifactRefused, PointerError, StoreReadOnly, UnknownArtifact
from controller.store import ArtifactStore, home_in, shipped_models
from controller.store import artifacts as module
from tests.controller.store.artifact_files import put

REF = "length/fast"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """Versions 1 and 2 shipped, 3 and 4 trained here."""
    store = ArtifactStore(tmp_path / "shipped", tmp_path / "home")
    for version in (1, 2):
        put(tmp_path / "shipped", REF, version, f"shipped {version}".encode())
    for version in (3, 4):
        put(tmp_path / "home" / "models", REF, version, f"trained {version}".encode())
    return store


def _versions(store: ArtifactStore) -> tuple[int | None, int | None, int | None]:
    pointer = store.pointer(REF)
    return tuple(pin.version if pin else None for pin in (pointer.active, pointer.shadow, pointer.previous))  # type: ignore[return-value]


def test_the_highest_shipped_version_serves_until_another_is_promoted(store: ArtifactStore) -> None:
    assert store.resolve(REF).name == "2"
    store.promote(REF, 3)
    assert store.resolve(REF).name == "3"
    assert (store.resolve(REF) / "weights.txt").read_bytes() == b"trained 3"


def test_without_shipped_versions_the_highest_trained_one_serves(tmp_path: Path) -> None:
    put(tmp_path / "models", REF, 1)
    put(tmp_path / "models", REF, 10)
    assert ArtifactStore(None, tmp_path).resolve(REF).name == "10"


def test_rollback_returns_to_what_served_before_and_back_again(store: ArtifactStore) -> None:
    store.promote(REF, 3)
    assert _versions(store) == (3, None, 2)
    store.rollback(REF)
    assert _versions(store) == (2, None, 3)
    store.rollback(REF)
    assert _versions(store) == (3, None, 2)


def test_promoting_what_serves_already_changes_nothing(store: ArtifactStore) -> None:
    store.promote(REF, 3)
    store.promote(REF, 3)
    assert _versions(store) == (3, None, 2)


def test_promoting_the_default_pins_it(store: ArtifactStore) -> None:
    store.promote(REF, 2)
    assert _versions(store) == (2, None, None)


def test_rollback_with_nothing_before_says_so(store: ArtifactStore) -> None:
    with pytest.raises(PointerError, match="no previous version"):
        store.rollback(REF)


def test_a_shadow_scores_beside_and_ends_when_promoted(store: ArtifactStore) -> None:
    assert store.shadow(REF) is None
    store.set_shadow(REF, 4)
    shadow = store.shadow(REF)
    assert shadow is not None
    assert shadow.name == "4"
    assert store.resolve(REF).name == "2"
    store.promote(REF, 3)
    assert _versions(store) == (3, 4, 2)
    store.promote(REF, 4)
    assert _versions(store) == (4, None, 3)
    store.set_shadow(REF, 3)
    store.set_shadow(REF, None)
    assert store.shadow(REF) is None


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 4, "rollback"]), max_size=8))
def test_what_serves_is_always_what_was_asked_for_last(
    tmp_path_factory: pytest.TempPathFactory, moves: list[int | str]
) -> None:
    home = tmp_path_factory.mktemp("home")
    store = ArtifactStore(None, home)
    for version in (1, 2, 3, 4):
        put(home / "models", REF, version)
    active, previous = 4, None
    for move in moves:
        if isinstance(move, int):
            if move != active:
                active, previous = move, active
            store.promote(REF, move)
        elif previous is not None:
            store.rollback(REF)
            active, previous = previous, active
        assert int(store.resolve(REF).name) == active
        assert _versions(store)[2] == previous
    assert not list((home / "pointers").rglob(".*")), "a half-written pointer was left behind"


def test_a_changed_file_is_refused_by_name(store: ArtifactStore) -> None:
    (store.resolve(REF) / "weights.txt").write_bytes(b"evil")
    with pytest.raises(ArtifactRefused, match=r"length/fast version 2 is refused: .*weights.txt"):
        store.resolve(REF)
    with pytest.raises(ArtifactRefused):
        store.promote(REF, 2)


def test_an_artifact_replaced_as_a_whole_after_its_promotion_is_refused(store: ArtifactStore) -> None:
    store.promote(REF, 3)
    assert store.home is not None
    put(store.home / "models", REF, 3, b"other weights, with a manifest that fits them", overwrite=True)
    with pytest.raises(ArtifactRefused, match="that was promoted"):
        store.resolve(REF)
    with pytest.raises(ArtifactRefused, match="that was promoted"):
        store.verify(REF)
    assert store.verify(REF, 4).version == 4


def test_an_artifact_moved_to_another_place_is_refused(store: ArtifactStore) -> None:
    assert store.home is not None
    put(store.home / "models", "length/other", 1).rename(store.home / "models" / "length" / "fast" / "5")
    with pytest.raises(ArtifactRefused, match="its manifest says that it is length/other/1"):
        store.promote(REF, 5)


def test_a_shipped_version_cannot_be_covered_by_one_of_the_same_number(store: ArtifactStore) -> None:
    assert store.home is not None
    put(store.home / "models", REF, 2, b"covering")
    assert (store.resolve(REF) / "weights.txt").read_bytes() == b"shipped 2"


@pytest.mark.parametrize("ref", ["length", "length/fast/1", "../x/y", "length/..", "Length/Fast", "", "a/b c"])
def test_only_kind_and_name_name_an_artifact(store: ArtifactStore, ref: str) -> None:
    with pytest.raises(UnknownArtifact, match="write it like length/fast"):
        store.resolve(ref)


def test_unknown_artifacts_and_versions_name_what_there_is(store: ArtifactStore) -> None:
    with pytest.raises(UnknownArtifact, match="did you mean 'length/fast'"):
        store.resolve("length/fats")
    with pytest.raises(UnknownArtifact, match="it has 1, 2, 3, 4"):
        store.promote(REF, 9)
    with pytest.raises(UnknownArtifact, match="there is none"):
        ArtifactStore(None, None).resolve(REF)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"active": 3, "shadow": null, "previous": null}', "\x00"])
def test_a_damaged_pointer_is_refused_and_says_what_to_do(store: ArtifactStore, content: str) -> None:
    assert store.home is not None
    file = store.home / "pointers" / "length" / "fast.json"
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(PointerError, match=r"fast.json is damaged .*delete it"):
        store.resolve(REF)
    assert all(one.error for one in store.list())


def test_without_a_home_nothing_can_be_promoted(store: ArtifactStore) -> None:
    with pytest.raises(StoreReadOnly, match="HEADWAY_HOME"):
        ArtifactStore(store.shipped, None).promote(REF, 1)


def test_the_list_shows_standing_origin_and_damage(store: ArtifactStore) -> None:
    store.promote(REF, 3)
    store.set_shadow(REF, 4)
    assert store.home is not None
    (store.home / "models" / "length" / "fast" / "5").mkdir()
    (store.home / "models" / "length" / "fast" / "notes").mkdir()
    listed = {one.version.number: one for one in store.list()}
    standing = {number: (set(one.standing), one.version.shipped) for number, one in listed.items()}
    assert standing == {
        1: (set(), True),
        2: ({"previous"}, True),
        3: ({"active"}, False),
        4: ({"shadow"}, False),
        5: (set(), False),
    }
    assert listed[3].manifest is not None
    assert listed[5].manifest is None
    assert "manifest.json" in (listed[5].error or "")


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 99), st.binary(min_size=1, max_size=20))
def test_a_folder_with_a_manifest_of_its_own_is_one_version(
    tmp_path_factory: pytest.TempPathFactory, number: int, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("flat")
    store = ArtifactStore(folder / "shipped", folder / "home")
    path = put(folder / "shipped", "ladder/small", number, content, flat=True)
    assert store.refs() == ("ladder/small",)
    (listed,) = store.list()
    assert (listed.version.number, listed.version.path, listed.version.shipped) == (number, path, True)
    assert (set(listed.standing), listed.error) == ({"active"}, None)
    assert store.resolve("ladder/small") == path
    assert store.verify("ladder/small", number).files["weights.txt"]
    with pytest.raises(UnknownArtifact, match=f"it has {number}"):
        store.promote("ladder/small", number + 1)
    with pytest.raises(PointerError, match="no previous version"):
        store.rollback("ladder/small")
    (path / "weights.txt").write_bytes(content + b"!")
    with pytest.raises(ArtifactRefused, match=r"weights.txt"):
        store.verify("ladder/small")


def test_a_damaged_manifest_without_a_number_is_listed_and_refused(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path, None)
    (put(tmp_path, "ladder/small", 3, flat=True) / "manifest.json").write_text("{")
    (listed,) = store.list()
    assert (listed.version.number, listed.manifest) == (1, None)
    assert "not a manifest" in (listed.error or "")
    with pytest.raises(ArtifactRefused, match="not a manifest"):
        store.resolve("ladder/small")


def test_checkpoints_without_a_manifest_are_no_artifacts(tmp_path: Path) -> None:
    (tmp_path / "ladder" / "small").mkdir(parents=True)
    (tmp_path / "ladder" / "small" / "config.json").write_text("{}")
    assert ArtifactStore(tmp_path, None).refs() == ()


def test_an_empty_store_lists_nothing(tmp_path: Path) -> None:
    assert ArtifactStore(tmp_path / "none", tmp_path / "neither").list() == ()


def test_home_is_found_in_the_environment_that_is_passed() -> None:
    assert home_in({"HEADWAY_HOME": "/srv", "HOME": "/root"}) == Path("/srv")
    assert home_in({"XDG_DATA_HOME": "/data", "HOME": "/root"}) == Path("/data/headway")
    assert home_in({"HOME": "/root"}) == Path("/root/.local/share/headway")


def test_shipped_models_are_found_beside_a_checkout() -> None:
    assert shipped_models() == Path(__file__).parents[3] / "models"


def test_shipped_models_are_found_in_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "headway_models" / "length").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "controller" / "store" / "artifacts.py"))
    with monkeypatch.context() as nowhere:
        # An editable install of a checkout has a copy of its own on the path.
        nowhere.setattr(module, "find_spec", lambda name: None)
        assert shipped_models() is None
    monkeypatch.syspath_prepend(tmp_path)
    assert shipped_models() == tmp_path / "headway_models"
