from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from controller.store import ArtifactStore
from gateway.assembly import control_plane, learned
from gateway.metrics import ArtifactState
from predictors import artifact
from tests.gateway.harness import configured, pool

SOMEWHERE = "http://127.0.0.1:1"


def states(store: ArtifactStore, **settings: object) -> dict[str, ArtifactState]:
    known = learned(configured(pool("p", SOMEWHERE), **settings), store)
    assert known.scorer is None
    return {f"{one.kind}/{one.name}": one.state for one in known.standings}


def test_artifacts_that_are_not_there_are_absent() -> None:
    assert states(ArtifactStore(None, None)) == {
        "length/fast": ArtifactState.ABSENT,
        "length/remaining": ArtifactState.ABSENT,
        "quality/llmrouter": ArtifactState.ABSENT,
    }


def test_a_stages_own_artifact_is_looked_at_too() -> None:
    found = states(ArtifactStore(None, None), stages={"tier": "best_effort"})
    assert found["policy/best-effort"] is ArtifactState.ABSENT


def test_what_the_configuration_turns_off_is_not_missed() -> None:
    assert states(ArtifactStore(None, None), scoring={"length": None, "quality": None, "remaining": None}) == {}


def test_a_tampered_artifact_is_refused_and_the_reason_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "length" / "fast" / "1"
    artifact.write(
        folder,
        kind="length",
        name="fast",
        version=1,
        features=("x",),
        data=(),
        metrics={},
        files={"ranker.txt": b"tree"},
        created="2026-01-01",
    )
    (folder / "ranker.txt").write_bytes(b"evil")
    known = learned(configured(pool("p", SOMEWHERE)), ArtifactStore(tmp_path, None))
    (refused,) = [one for one in known.standings if one.name == "fast"]
    assert refused.state is ArtifactState.REFUSED
    assert "ranker.txt" in refused.why


def test_an_artifact_of_another_kind_of_predictor_is_refused_with_what_is_wrong() -> None:
    shipped = ArtifactStore(Path(__file__).resolve().parents[2] / "models", None)
    swapped = {"length": "length/remaining", "remaining": "length/fast", "quality": None}
    known = learned(configured(pool("p", SOMEWHERE), scoring=swapped), shipped)
    assert (known.scorer, known.remaining) == (None, None)
    for standing in known.standings:
        assert standing.state is ArtifactState.REFUSED
        assert "features" in standing.why


def test_what_is_left_of_streams_can_be_predicted_without_any_scorer() -> None:
    shipped = ArtifactStore(Path(__file__).resolve().parents[2] / "models", None)
    known = learned(configured(pool("p", SOMEWHERE), scoring={"length": None, "quality": None}), shipped)
    assert known.scorer is None
    assert known.remaining is not None
    said = known.remaining.begin(0.5, 300.0, None, 48).feed("One more word of it. " * 12, 48)
    assert said is not None
    assert said.expected > 0.0


def test_a_profile_gives_a_pool_its_first_speed(tmp_path: Path) -> None:
    store = ArtifactStore(Path(__file__).resolve().parents[2] / "models", None)
    if "profile/h100-8b" not in store.refs():
        pytest.skip("models/profile/h100-8b is not there")
    plane = control_plane(configured(pool("p", SOMEWHERE, profile="h100-8b")), store)
    plain = control_plane(configured(pool("p", SOMEWHERE)), store)
    assert plane.settings.service_rates["p"] > 100
    assert plain.settings.service_rates == {}


def test_a_profile_that_is_not_there_is_no_reason_not_to_serve(caplog: pytest.LogCaptureFixture) -> None:
    plane = control_plane(configured(pool("p", SOMEWHERE, profile="none")), ArtifactStore(None, None))
    assert plane.settings.service_rates == {}
    assert "its speed is measured instead" in caplog.text


def test_every_stage_of_the_configuration_is_built() -> None:
    chosen = {"tier": "best_effort", "order": "fcfs", "fairness": "vtc", "place": "prefix"}
    plane = control_plane(configured(pool("p", SOMEWHERE), stages=chosen), ArtifactStore(None, None))
    assert (plane.stages.tier.name, plane.stages.order.name) == ("best_effort", "fcfs")
    assert (plane.stages.fairness.name, plane.stages.place.name) == ("vtc", "prefix")


@pytest.mark.parametrize("other", [False, True])
def test_a_policy_that_learned_from_another_predictor_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: bool
) -> None:
    models = Path(__file__).resolve().parents[2] / "models"
    for kind in ("length/fast", "quality/ladder", "policy/best-effort"):
        path = ArtifactStore(models, None).resolve(kind)
        shutil.copytree(path, tmp_path / path.relative_to(models))
    if other:
        (file,) = tmp_path.glob("policy/best-effort/*/manifest.json")
        manifest = json.loads(file.read_text())
        manifest["settings"]["inputs"]["length/fast"] = "0" * 64
        file.write_text(json.dumps(manifest))
    scoring = {"quality": "quality/ladder", "remaining": None}
    configuration = configured(pool("p", SOMEWHERE), stages={"tier": "best_effort"}, scoring=scoring)
    known = learned(configuration, ArtifactStore(tmp_path, None))
    assert all(one.state is ArtifactState.ACTIVE for one in known.standings)
    assert ("policy/best-effort learned from another length/fast" in caplog.text) is other


def test_a_policy_that_learned_from_a_predictor_that_does_not_serve_is_told(caplog: pytest.LogCaptureFixture) -> None:
    models = ArtifactStore(Path(__file__).resolve().parents[2] / "models", None)
    learned(configured(pool("p", SOMEWHERE), stages={"tier": "best_effort"}), models)
    assert "policy/best-effort learned from quality/ladder, and quality/llmrouter serves" in caplog.text
    assert "length/fast" not in caplog.text
