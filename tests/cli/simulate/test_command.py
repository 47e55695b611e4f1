from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.simulate.studies import STEADY, azure, metrics, profile_file, report, run, said_by

SPEED = "simulated_requests_per_s"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return azure(tmp_path / "trace.csv")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return profile_file(tmp_path)


def _timeless(report: dict[str, Any]) -> dict[str, Any]:
    for row in report["results"]:
        row["metrics"].pop(SPEED)
    return report


def test_a_report_has_a_row_a_policy_with_every_figure_and_its_ratio_to_the_first(
    trace: Path, tiny: Path, tmp_path: Path
) -> None:
    found = report(tmp_path, "--trace", trace, "--profile", tiny, "--policy", "round_robin", "--policy", "prefix")
    assert found["command"] == "simulate"
    assert [row["policy"] for row in found["results"]] == ["round_robin", "prefix"]
    first, second = (row["metrics"] for row in found["results"])
    for name in ("ttft", "tpot", "e2e", "normalised"):
        for statistic in ("mean", "p50", "p90", "p99"):
            metric = first[f"{name}_{statistic}"]
            assert metric["lo"] <= metric["value"] <= metric["hi"]
            assert second[f"{name}_{statistic}_ratio"] == {"value": 1.0, "lo": 1.0, "hi": 1.0}
    assert set(second) - set(first) == {name for name in second if name.endswith("_ratio")}
    assert first[SPEED]["value"] > 0
    assert found["settings"]["baseline"] == "round_robin"
    assert found["settings"]["fleet"] == [
        {"pool": "tiny", "model": "tiny-model", "workers": {"tiny": 1}, "context_length": 1024}
    ]


def test_figures_of_requests_that_never_meet_by_hand(tmp_path: Path, tiny: Path) -> None:
    # One at a time: the first token after one step of 10 ms, each further one after 11 ms.
    trace = azure(tmp_path / "apart.csv", [(0.0, 10, 1), (10.0, 10, 3), (20.0, 10, 5)])
    found = metrics(report(tmp_path, "--trace", trace, "--profile", tiny, "--policy", "fcfs"), "fcfs")
    assert found["ttft_mean"] == pytest.approx(0.010, abs=1e-6)
    assert found["e2e_p50"] == pytest.approx(0.032, abs=1e-6)
    assert found["tpot_p90"] == pytest.approx(0.011, abs=1e-6)
    assert found["normalised_mean"] == pytest.approx((0.010 + 0.032 / 3 + 0.054 / 5) / 3, abs=1e-6)
    assert found["duration_s"] == pytest.approx(20.054, abs=1e-6)
    assert found["throughput_rps"] == pytest.approx(3 / 20.054, abs=1e-6)
    assert found["output_tokens_per_s"] == pytest.approx(9 / 20.054, abs=1e-6)
    assert found["gpu_hours"] == pytest.approx(20.054 / 3600, abs=1e-9)
    assert found["usd"] == pytest.approx(3.6 * 20.054 / 3600, abs=1e-9)
    assert found["availability"] == 1.0


def test_the_same_seed_gives_the_same_report(trace: Path, tiny: Path, tmp_path: Path) -> None:
    asked = ("--trace", trace, "--profile", tiny, "--policy", "fcfs", "--policy", "length_rank,max_inflight=1")
    one, two, other = (_timeless(report(tmp_path, *asked, "--seed", seed)) for seed in ("3", "3", "4"))
    assert one == two
    assert one != other


def test_every_policy_sees_the_same_requests_whoever_else_is_compared(trace: Path, tiny: Path, tmp_path: Path) -> None:
    asked = ("--trace", trace, "--profile", tiny)
    alone = metrics(report(tmp_path, *asked, "--policy", "length_rank,max_inflight=2"), "length_rank,max_inflight=2")
    both = report(tmp_path, *asked, "--policy", "fcfs", "--policy", "length_rank,max_inflight=2")
    beside = metrics(both, "length_rank,max_inflight=2")
    assert {name: beside[name] for name in alone if name != SPEED} == {
        name: value for name, value in alone.items() if name != SPEED
    }


def test_requests_that_were_rejected_stay_in_the_denominators(tmp_path: Path, tiny: Path) -> None:
    trace = azure(tmp_path / "burst.csv", [(0.0, 10, 50)] * 10)
    asked = ("--trace", trace, "--profile", tiny, "--max-inflight", "2", "--max-queue", "3")
    found = metrics(report(tmp_path, *asked, "--policy", "fcfs"), "fcfs")
    assert (found["completed"], found["rejected"], found["failed"]) == (5, 5, 0)
    assert found["availability"] == 0.5
    assert found["e2e_p50"] is None, "half of them were never answered"
    assert found["e2e_mean"] is not None
    assert found["goodput_rps"] == pytest.approx(found["throughput_rps"])


def test_goodput_counts_what_kept_every_limit(tmp_path: Path, tiny: Path) -> None:
    trace = azure(tmp_path / "burst.csv", [(0.0, 10, 50)] * 4)
    asked = ("--trace", trace, "--profile", tiny, "--policy", "fcfs,max_inflight=1")
    found = metrics(report(tmp_path, *asked, "--goodput", "ttft:600", "--goodput", "tpot:12"), "fcfs,max_inflight=1")
    assert found["completed"] == 4
    assert found["throughput_rps"] is not None
    assert found["goodput_rps"] == pytest.approx(found["throughput_rps"] / 2), "two waited longer than 600 ms"
    late = metrics(report(tmp_path, *asked, "--deadline", "1.2"), "fcfs,max_inflight=1")
    assert late["availability"] == 0.5


def test_short_answers_first_is_faster_on_average_and_an_oracle_fastest(tmp_path: Path, tiny: Path) -> None:
    trace = azure(tmp_path / "mixed.csv", [(0.001 * i, 10, 200 if i % 2 else 4) for i in range(60)])
    asked = ("--trace", trace, "--profile", tiny, "--max-inflight", "2", "--max-queue-s", "1000")
    two = ("--policy", "fcfs", "--policy", "length_rank")
    ratios = [
        metrics(report(tmp_path, *asked, *two, "--rank-noise", tau), "length_rank")["normalised_mean_ratio"]
        for tau in ("1", "0.4", "0")
    ]
    oracle, noisy, blind = (ratio for ratio in ratios if ratio is not None)
    assert oracle < noisy < blind


def test_what_the_ranks_were_is_said(trace: Path, tiny: Path, tmp_path: Path) -> None:
    asked = ("--trace", trace, "--profile", tiny)
    assert report(tmp_path, *asked, "--policy", "fcfs")["settings"]["rank"] is None
    ranked = report(tmp_path, *asked, "--policy", "length_rank", "--rank-noise", "1")
    assert ranked["settings"]["rank"] == {"tau_asked": 1.0, "tau": pytest.approx(1.0)}
    shown = run(*asked, "--policy", "length_rank", "--rank-noise", "1")
    assert "Kendall's tau 1.00" in said_by(shown)


def test_the_table_names_policies_and_figures(trace: Path, tiny: Path) -> None:
    shown = run("--trace", trace, "--profile", f"{tiny}=2", "--policy", "fcfs", "--policy", "name=other,prefix")
    assert shown.exit_code == 0, shown.output
    for text in ("20 requests (azure)", "2 × tiny", "TTFT mean, ms", "GPU-hours", "simulated requests/s", "other"):
        assert text in shown.output
    assert "Ratio to fcfs" in shown.output


@pytest.mark.parametrize(
    ("scaled", "span"), [(("--rate", "4"), 19 / 4), (("--time-scale", "0.5"), 4.75), (("--limit", "3"), 1.0)]
)
def test_the_trace_can_be_scaled_and_cut(
    scaled: tuple[str, str], span: float, trace: Path, tiny: Path, tmp_path: Path
) -> None:
    found = report(tmp_path, "--trace", trace, "--profile", tiny, "--policy", "fcfs", *scaled)
    assert found["settings"]["span_s"] == pytest.approx(span)


def test_prompts_that_fit_nowhere_are_rejected_or_left_out(tmp_path: Path, tiny: Path) -> None:
    trace = azure(tmp_path / "long.csv", [*STEADY, (30.0, 5000, 5)])
    asked = ("--trace", trace, "--profile", tiny, "--policy", "fcfs")
    assert metrics(report(tmp_path, *asked), "fcfs")["rejected"] == 1
    without = report(tmp_path, *asked, "--skip-too-long")
    assert metrics(without, "fcfs")["requests"] == 20
    assert without["settings"]["left_out"] == 1


def test_answers_end_where_the_context_does(tmp_path: Path, tiny: Path) -> None:
    trace = azure(tmp_path / "long.csv", [(0.0, 1000, 500)])
    found = metrics(report(tmp_path, "--trace", trace, "--profile", tiny, "--policy", "fcfs"), "fcfs")
    assert found["completed"] == 1
    assert found["duration_s"] == pytest.approx(0.01 + 23 * 0.011, abs=1e-6)


def test_pictures_are_drawn(trace: Path, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = ("--trace", trace, "--profile", tiny, "--max-queue", "1", "--max-inflight", "1", "--time-scale", "0.001")
    done = run(*asked, "--policy", "fcfs", "--policy", "length_rank", "--plots", tmp_path / "plots")
    assert done.exit_code == 0, done.output
    drawn = {path.name: path.read_bytes()[:4] for path in (tmp_path / "plots").iterdir()}
    assert drawn == dict.fromkeys(("queue.png", "batch.png", "kv.png", "latency.png", "cdf.png"), b"\x89PNG")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--policy", "fcfz"), "did you mean 'fcfs'?"),
        (("--policy", "order=least_load"), "stage order has no implementation"),
        (("--policy", "ordr=fcfs"), "did you mean 'order'?"),
        (("--policy", "none"), "could be of several stages"),
        (("--policy", "fcfs,length_rank"), "given twice"),
        (("--policy", "fcfs,max_inflight=0"), "max_inflight is a number from 1 on"),
        (("--policy", "length_rank,order.patience=3"), "unknown option 'patience'"),
        (("--policy", "length_rank,order.patience_s=[3"), "not a value"),
        (("--policy", "order.patience_s=3"), "no implementation of it is named"),
        (("--policy", "fcfs", "--policy", "fcfs"), "two policies are called 'fcfs'"),
        (("--policy", "fcfs,"), "an empty part"),
        (("--policy", "fcfs,scheduling=lifo"), "fcfs or priority"),
        (("--policy", "fcfs", "--rate", "0"), "--rate must be above 0"),
        (("--policy", "fcfs", "--rate", "1", "--time-scale", "1"), "not both"),
        (("--policy", "fcfs", "--goodput", "itl:5"), "ttft, tpot, e2el"),
        (("--policy", "fcfs", "--engine", "warp"), "full or compiled"),
        (("--policy", "fcfs", "--start", "50"), "no request in it"),
        (("--policy", "fcfs", "--format", "csv"), "no format 'csv'"),
    ],
)
def test_mistakes_are_told(wrong: tuple[str, ...], said: str, trace: Path, tiny: Path) -> None:
    done = run("--trace", trace, "--profile", tiny, *wrong)
    assert done.exit_code == 2, done.output
    assert said in said_by(done)


@pytest.mark.parametrize(
    ("name", "said"), [("h100-9b", "h100-8b"), ("{tiny}=0", "from 1 on"), ("{tiny}=x", "from 1 on"), ("a/b", "a/b")]
)
def test_profiles_that_are_none(name: str, said: str, trace: Path, tiny: Path) -> None:
    done = run("--trace", trace, "--profile", name.format(tiny=tiny), "--policy", "fcfs")
    assert done.exit_code == 2, done.output
    assert said in said_by(done)


def test_a_trace_that_is_missing_or_damaged(tmp_path: Path, tiny: Path) -> None:
    asked = ("--profile", tiny, "--policy", "fcfs")
    missing = run("--trace", tmp_path / "nowhere.csv", *asked)
    assert missing.exit_code == 2
    assert "no such file" in said_by(missing)
    damaged = azure(tmp_path / "damaged.csv")
    damaged.write_text(damaged.read_text() + "yesterday,many,few\n")
    torn = run("--trace", damaged, *asked)
    assert torn.exit_code == 2
    assert "line 22" in said_by(torn)


def _mooncake(folder: Path) -> Path:
    """Twelve prompts of 600 tokens, of which every second begins as the others of those do."""
    lines = [
        {"timestamp": 2000 * i, "input_length": 600, "output_length": 3, "hash_ids": [7 if i % 2 else i, i + 100]}
        for i in range(12)
    ]
    trace = folder / "mooncake.jsonl"
    trace.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return trace


def test_engines_find_the_prefixes_of_a_trace_again(tmp_path: Path) -> None:
    slow = profile_file(tmp_path, name="slow", b=1e-4)
    asked = ("--trace", _mooncake(tmp_path), "--profile", slow, "--policy", "fcfs")
    told = report(tmp_path, *asked)
    cached, without = (metrics(found, "fcfs") for found in (told, report(tmp_path, *asked, "--no-prefix-caching")))
    assert (told["settings"]["prefix_caching"], told["settings"]["prefix_block"]) == (True, 512)
    assert without["ttft_mean"] == pytest.approx(0.01 + 600e-4, abs=1e-6)
    share = 512 * 5 / (12 * 600)
    assert cached["prefix_hit_rate"] == pytest.approx(share), "five of twelve find 512 tokens"
    assert cached["ttft_mean"] == pytest.approx(0.01 + 600e-4 * (1 - share), abs=1e-6)
    assert without["prefix_hit_rate"] is None


def test_the_share_of_prompts_that_was_found_is_shown(tmp_path: Path, tiny: Path) -> None:
    asked = ("--trace", _mooncake(tmp_path), "--profile", tiny, "--policy", "fcfs")
    shown = run(*asked)
    assert "Engines keep prefixes, in blocks of 512 tokens" in said_by(shown)
    (line,) = (line for line in shown.output.splitlines() if "prefix hit rate, %" in line)
    assert "35.56" in line
    without = run(*asked, "--no-prefix-caching")
    assert "Engines keep" not in without.output


def test_a_trace_without_prefixes_needs_no_cache_and_says_so_to_who_wants_one(trace: Path, tiny: Path) -> None:
    asked = ("--trace", trace, "--profile", tiny, "--policy", "fcfs")
    assert run(*asked).exit_code == 0
    wanted = run(*asked, "--prefix-caching")
    assert wanted.exit_code == 2
    assert "no two prompts" in said_by(wanted)


def test_prefixes_in_blocks_that_no_engine_could_keep(tmp_path: Path) -> None:
    odd = profile_file(tmp_path, name="odd", block_size=24)
    asked = ("--trace", _mooncake(tmp_path), "--profile", odd, "--policy", "fcfs")
    refused = run(*asked)
    assert refused.exit_code == 2
    assert "blocks of 512 tokens, but the KV blocks of profile odd hold 24" in said_by(refused)
    assert run(*asked, "--no-prefix-caching").exit_code == 0


def test_that_one_model_of_several_gets_everything_is_said_unless_it_was_chosen(
    trace: Path, tiny: Path, tmp_path: Path
) -> None:
    asked = ("--trace", trace, "--profile", tiny, "--profile", profile_file(tmp_path, name="big", model="big-model"))
    warned = run(*asked, "--policy", "fcfs", "--policy", "tier=static,tier.weights={tiny: 1, big: 3}")
    assert warned.exit_code == 0, warned.output
    (line,) = (line for line in warned.stderr.splitlines() if "headway:" in line)
    assert "under fcfs every request goes to tiny-model, the first of 2 models" in line
    assert "tier=threshold, or tier=static,tier.weights={tiny: 1, big: 1}" in line
    for policy in ("tier=pinned", "tier=threshold"):
        assert "headway:" not in run(*asked, "--policy", policy).stderr
    assert "headway:" not in run("--trace", trace, "--profile", f"{tiny}=2", "--policy", "fcfs").stderr
