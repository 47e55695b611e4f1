"""Readers of public traces: values, order, parts of them, and errors that name the line."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from envs.traces import (
    TraceError,
    read_azure,
    read_burstgpt,
    read_measured,
    read_mooncake,
    read_servegen,
    read_sharegpt,
    read_vllm_bench,
    read_vllm_custom,
)
from envs.workloads import Arrival, Gamma, Lengths, Pace, Poisson
from tests.envs.traces import files
from tests.envs.traces.files import Put, lines, pool, putting
from tests.envs.workloads.memory import growth


@pytest.fixture
def put(tmp_path: Path) -> Put:
    return putting(tmp_path)


def test_azure_rows_start_at_zero_and_keep_their_gaps(put: Put) -> None:
    rows = list(read_azure(put("azure.csv", files.AZURE)))
    assert [row.lengths for row in rows] == [Lengths(374, 44), Lengths(396, 109), Lengths(879, 55)]
    assert [row.at for row in rows] == pytest.approx([0.0, 4.314579, 4.541877], abs=1e-6)


def test_azure_of_2024_has_zones_and_leaves_out_decimals(put: Put) -> None:
    rows = list(read_azure(put("week.csv", files.AZURE_2024)))
    assert [row.at for row in rows] == pytest.approx([0.0, 0.99007, 1.24007], abs=1e-6)


def test_a_part_of_a_trace_starts_at_zero_too(put: Put) -> None:
    rows = list(read_azure(put("azure.csv", files.AZURE), start=1, limit=1))
    assert [(row.at, row.lengths) for row in rows] == [(0.0, Lengths(396, 109))]


def test_packed_files_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv.gz"
    path.write_bytes(gzip.compress(files.AZURE.encode()))
    assert len(list(read_azure(path))) == 3
    path.write_bytes(gzip.compress(files.AZURE.encode())[:-20])
    with pytest.raises(TraceError, match="cannot be read"):
        list(read_azure(path))


def test_mooncake_prefixes_cover_full_blocks_only(put: Put) -> None:
    rows = list(read_mooncake(put("m.jsonl", files.MOONCAKE)))
    assert [row.at for row in rows] == [0.0, 1.5]
    assert [row.lengths for row in rows] == [Lengths(1536, 500, (0, 1, 2), 512), Lengths(700, 3, (0,), 512)]


def test_hashes_of_another_block_size_are_refused_rather_than_misread(put: Put) -> None:
    row = {"timestamp": 0, "input_length": 64, "output_length": 1, "hash_ids": [1, 2, 3, 4]}
    with pytest.raises(TraceError, match="blocks of 512"):
        list(read_mooncake(put("m.jsonl", lines(row))))


def test_burstgpt_leaves_failures_out_and_names_the_model(put: Put) -> None:
    rows = list(read_burstgpt(put("b.csv", files.BURSTGPT)))
    assert [(row.at, row.tenant, row.lengths) for row in rows] == [
        (0.0, "ChatGPT", Lengths(472, 18)),
        (113.0, "GPT-4", Lengths(417, 276)),
    ]


def test_burstgpt_of_release_2_has_sessions_where_it_was_a_conversation(put: Put) -> None:
    rows = list(read_burstgpt(put("b.csv", files.BURSTGPT_3)))
    assert [(row.at, row.session, row.lengths) for row in rows] == [
        (0.0, "1722ac82", Lengths(906, 446)),
        (51.0, None, Lengths(36, 29)),
    ]


def test_servegen_workloads_count_every_modality(put: Put) -> None:
    rows = list(read_servegen(put("w.csv", files.SERVEGEN)))
    assert [(row.at, row.lengths) for row in rows] == [(0.0, Lengths(10, 20)), (pytest.approx(0.7), Lengths(15, 25))]
    assert next(read_servegen(put("i.csv", files.SERVEGEN_IMAGES))).lengths == Lengths(310, 20)


def test_servegen_conversations_are_merged_by_time(put: Put) -> None:
    rows = list(read_servegen(put("conversations_hashed.json", files.TURNS)))
    assert [(row.at, row.session, row.lengths) for row in rows] == [
        (0.0, "0", Lengths(50, 5)),
        (100.0, "1", Lengths(70, 7)),
        (300.0, "0", Lengths(90, 6)),
    ]


def test_a_client_pool_is_played_with_each_clients_rate_and_lengths(tmp_path: Path) -> None:
    rows = list(read_servegen(pool(tmp_path / "m-small"), seed=1))
    assert all(a.at <= b.at for a, b in pairwise(rows))
    tenants = Counter(row.tenant for row in rows)
    assert tenants["client-0"] == pytest.approx(3000, rel=0.1)
    assert tenants["client-3"] == pytest.approx(1200, rel=0.3)
    assert {row.lengths for row in rows if row.tenant == "client-3"} == {Lengths(99, 1)}
    assert {row.lengths for row in rows if row.tenant == "client-0"} == {Lengths(10, 7), Lengths(30, 7)}
    assert rows == list(read_servegen(tmp_path / "m-small", seed=1))
    assert rows != list(read_servegen(tmp_path / "m-small", seed=2))


def test_weibull_clients_have_the_variation_of_their_shape(tmp_path: Path) -> None:
    folder = pool(tmp_path / "pool")
    (folder / "chunk-0-trace.csv").unlink()
    (folder / "chunk-3-trace.csv").write_text("600,50.0,2.2,Weibull,0.5,0.1\n")
    gaps = np.diff([row.at for row in read_servegen(folder)])
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(np.sqrt(5), rel=0.1)


def test_a_pool_with_a_strange_window_names_it(tmp_path: Path) -> None:
    folder = pool(tmp_path / "pool")
    (folder / "chunk-0-trace.csv").write_text("0,5.0,1.0,Pareto,1.0,0.2\n")
    with pytest.raises(TraceError, match=r"chunk-0-trace.csv, line 1.*Pareto"):
        list(read_servegen(folder))
    (folder / "chunk-0-trace.csv").write_text("0,5.0,1.0,Gamma,1.0,0.2\n")
    (folder / "chunk-0-dataset.json").write_text('{"0": {"input_tokens": "{1: }", "output_tokens": "{}"}}')
    assert {row.tenant for row in read_servegen(folder)} == {"client-3"}
    (folder / "chunk-0-dataset.json").write_text('{"0": {"input_tokens": "{1: }", "output_tokens": "{2: 1.0}"}}')
    with pytest.raises(TraceError, match=r"chunk-0-dataset.json: not a dataset"):
        list(read_servegen(folder))


def test_sharegpt_turns_hold_what_was_said_before(put: Put) -> None:
    still = Pace(think_s=10.0, think_sigma=0.0, first_token_s=1.0, token_s=0.1)
    rows = list(read_sharegpt(put("s.json", files.SHAREGPT), Gamma(1.0, 0.01), pace=still))
    one = [row for row in rows if row.session == "one"]
    assert [row.session for row in rows] == ["one", "three", "one"]
    assert [(row.lengths.prompt_tokens, row.lengths.output_tokens) for row in one if row.lengths] == [
        (100, 50),
        (160, 20),
    ]
    first, second = (row.lengths for row in one)
    assert first is not None
    assert second is not None
    assert second.prefix[:2] == first.prefix
    assert len(second.prefix) == 180 // second.prefix_block
    assert one[1].at - one[0].at == pytest.approx(10 + 1 + 0.1 * 50)


def test_sharegpt_counts_with_the_tokenizer_given(put: Put) -> None:
    rows = read_sharegpt(put("s.json", files.SHAREGPT), Poisson(1.0), count=len, limit=1)
    assert [row.lengths.prompt_tokens for row in rows if row.lengths] == [400]


def test_sharegpt_may_be_json_lines(put: Put) -> None:
    path = put("s.jsonl", lines(*json.loads(files.SHAREGPT)))
    assert [row.session for row in read_sharegpt(path, Gamma(1.0, 0.01))] == ["one", "three", "one"]


def test_a_benchmark_is_replayed_in_the_order_it_was_sent(put: Put) -> None:
    rows = list(read_vllm_bench(put("r.json", files.RESULT)))
    assert [(row.at, row.lengths) for row in rows] == [(0.0, Lengths(300, 30)), (2.0, Lengths(100, 10))]


def test_appended_benchmarks_follow_one_another(put: Put) -> None:
    rows = list(read_vllm_bench(put("r.json", files.RESULT + "\n" + files.RESULT)))
    assert [row.at for row in rows] == [0.0, 2.0, 10.0, 12.0]


def test_a_benchmark_without_details_says_which_flag_writes_them(put: Put) -> None:
    with pytest.raises(TraceError, match="--save-detailed"):
        list(read_vllm_bench(put("r.json", '{"backend": "vllm", "request_throughput": 1.0}')))


def test_a_benchmark_without_times_takes_them_from_a_process(put: Put) -> None:
    bare = {key: value for key, value in json.loads(files.RESULT).items() if key != "start_times"}
    path = put("r.json", json.dumps(bare))
    with pytest.raises(TraceError, match="process"):
        list(read_vllm_bench(path))
    assert [row.lengths for row in read_vllm_bench(path, Poisson(1.0))] == [Lengths(100, 10), Lengths(300, 30)]


def test_custom_prompts_need_the_length_of_their_answer(put: Put) -> None:
    rows = list(read_vllm_custom(put("c.jsonl", files.CUSTOM), Poisson(1.0)))
    assert [row.lengths for row in rows] == [Lengths(10, 10), Lengths(100, 20)]
    assert rows[0].at == 0.0 < rows[1].at
    with pytest.raises(TraceError, match=r"line 1.*output_tokens"):
        list(read_vllm_custom(put("d.jsonl", lines({"prompt": "p"})), Poisson(1.0)))


def test_a_measurement_is_replayed_without_its_failures(put: Put) -> None:
    rows = list(read_measured(put("m.csv", files.MEASURED)))
    assert [(row.at, row.lengths) for row in rows] == [
        (0.0, Lengths(914, 100)),
        (pytest.approx(0.4999), Lengths(398, 99)),
    ]


def test_bad_rows_and_columns_are_named(put: Put) -> None:
    head = files.AZURE.split("\r\n")[0]
    with pytest.raises(TraceError, match=r"azure.csv, line 2"):
        list(read_azure(put("azure.csv", f"{head}\r\nyesterday,1,2\r\n")))
    with pytest.raises(TraceError, match="GeneratedTokens"):
        list(read_azure(put("azure.csv", "TIMESTAMP,ContextTokens\r\n")))
    with pytest.raises(TraceError, match=r"m.jsonl, line 1.*output_length"):
        list(read_mooncake(put("m.jsonl", lines({"timestamp": 0, "input_length": 5}))))
    with pytest.raises(TraceError, match=r"m.jsonl, line 2"):
        list(read_mooncake(put("m.jsonl", files.MOONCAKE.splitlines()[0] + "\n{oops\n")))
    with pytest.raises(TraceError, match="Response tokens"):
        list(read_burstgpt(put("b.csv", "Timestamp,Model,Request tokens\n")))
    with pytest.raises(TraceError, match="input_tokens or text_tokens"):
        list(read_servegen(put("w.csv", "request_id,timestamp,output_tokens\n")))
    with pytest.raises(TraceError, match="conversation 1"):
        list(read_sharegpt(put("s.json", '[{"id": 1}]'), Poisson(1.0)))
    with pytest.raises(TraceError, match="cut short after 2 elements"):
        list(read_sharegpt(put("s.json", files.SHAREGPT[:-40]), Poisson(1.0)))


def test_rows_a_little_out_of_order_are_put_in_order_and_far_ones_refused(put: Put) -> None:
    def row(at: int) -> dict[str, object]:
        return {"timestamp": at, "input_length": 5, "output_length": 5}

    near = [*range(100), 40, *range(100, 400)]
    rows = list(read_mooncake(put("m.jsonl", lines(*map(row, near)))))
    assert [round(one.at * 1000) for one in rows] == sorted(near)
    with pytest.raises(TraceError, match="out of order"):
        list(read_mooncake(put("m.jsonl", lines(*map(row, [*range(500), 10, *range(500, 900)])))))


def test_a_long_trace_is_never_held(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    with path.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for i in range(30_000):
            file.write(f"2024-05-10 {i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}.5+00:00,{i % 999 + 1},7\n")
    assert growth(read_azure(path), warm=2000, then=25_000) < 100_000


def test_a_long_array_of_conversations_is_never_held(tmp_path: Path) -> None:
    talk = {"id": "x", "conversations": [{"from": "human", "value": "y" * 500}, {"from": "gpt", "value": "z" * 500}]}
    path = tmp_path / "long.json"
    path.write_text("[" + ",".join([json.dumps(talk)] * 4000) + "]")
    assert growth(read_sharegpt(path, Poisson(1.0)), warm=500, then=3000) < 1_500_000


@pytest.mark.skipif("HEADWAY_DATA" not in os.environ, reason="needs the data folder: set HEADWAY_DATA")
def test_the_published_traces_are_read_in_full() -> None:
    folder = Path(os.environ["HEADWAY_DATA"]) / "traces"
    azure = list(read_azure(folder / "AzureLLMInferenceTrace_conv.csv"))
    assert len(azure) == 19_366
    assert 3400 < azure[-1].at < 3600
    assert all(a.at <= b.at for a, b in pairwise(azure))
    mooncake: list[Arrival] = list(read_mooncake(folder / "mooncake_conversation_trace.jsonl"))
    assert len(mooncake) == 12_031
    assert all(len(r.lengths.prefix) == r.lengths.prompt_tokens // 512 for r in mooncake if r.lengths)
