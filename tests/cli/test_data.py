"""``headway data``: what there is, traces brought in, and downloads that are whole or not there."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from envs.traces import open_trace, span_of
from envs.workloads import Lengths
from tests.envs.traces.files import AZURE, SAMPLES, SHAREGPT, pool, putting


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def report(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    written = folder / "report.json"
    result = run(*arguments, "--json", written)
    assert result.exit_code == 0, result.output
    loaded: dict[str, Any] = json.loads(written.read_text())
    written.unlink()
    return loaded


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a file of every format and a client pool."""
    (tmp_path / "data" / "traces").mkdir(parents=True)
    for name, text in SAMPLES.values():
        putting(tmp_path / "data" / "traces")(name, text)
    pool(tmp_path / "data" / "pool")
    return tmp_path / "data"


def test_list_tells_formats_licences_and_rows(folder: Path) -> None:
    putting(folder)("AzureLLMInferenceTrace_conv.csv", AZURE)
    putting(folder)("notes.csv", "a,b\n1,2\n")
    putting(folder)(".hidden.csv", AZURE)
    listed = report(folder, "list", "--data", folder)
    rows = {row["file"]: row for row in listed["results"]}
    assert listed["command"] == "data list"
    assert {rows[f"traces/{name}"]["format"] for name, _ in SAMPLES.values()} == set(SAMPLES)
    assert rows["traces/burst.csv"]["metrics"]["rows"]["value"] == 3
    assert rows["traces/share.json"]["metrics"]["rows"]["value"] == 3
    assert rows["pool"]["metrics"]["rows"]["value"] == 2
    assert rows["AzureLLMInferenceTrace_conv.csv"]["licence"] == "CC-BY-4.0"
    assert (rows["notes.csv"]["format"], rows["notes.csv"]["metrics"]["rows"]) == ("unknown", None)
    assert not any("hidden" in name for name in rows)
    fetchable = {one["name"] for one in listed["fetchable"]}
    assert "burstgpt-3" in fetchable
    assert "azure-conv-2023" not in fetchable


def test_list_takes_the_folder_from_the_environment_and_says_when_there_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWAY_DATA", str(folder))
    assert report(folder, "list")["settings"] == {"data": str(folder)}
    monkeypatch.setenv("HEADWAY_DATA", "")
    missing = run("list")
    assert missing.exit_code == 2
    assert "HEADWAY_DATA" in missing.output
    assert run("list", "--data", folder / "nowhere").exit_code == 2


@pytest.mark.parametrize("name", ["azure", "mooncake", "burstgpt", "servegen", "measured", "vllm-bench", "headway"])
def test_import_brings_every_trace_with_times_into_our_format(folder: Path, tmp_path: Path, name: str) -> None:
    source, out = folder / "traces" / SAMPLES[name][0], tmp_path / "out.parquet"
    row = report(tmp_path, "import", source, out)["results"][0]
    assert row["format"] == name
    assert list(open_trace(out)) == list(open_trace(source))
    assert row["metrics"]["requests"]["value"] == span_of(open_trace(source)).requests


def test_import_scales_to_a_rate_or_by_a_factor(folder: Path, tmp_path: Path) -> None:
    source, out = folder / "traces" / "azure.csv", tmp_path / "out.jsonl"
    row = report(tmp_path, "import", source, out, "--rate", "8")["results"][0]
    assert row["metrics"]["requests_per_s"]["value"] == pytest.approx(8.0)
    assert span_of(open_trace(out)).rate == pytest.approx(8.0)
    report(tmp_path, "import", source, out, "--time-scale", "10")
    assert span_of(open_trace(out)).seconds == pytest.approx(45.418774, abs=1e-4)
    both = run("import", source, out, "--rate", "8", "--time-scale", "10")
    assert both.exit_code == 2


def test_import_takes_a_part(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    report(
        tmp_path, "import", folder / "traces" / "azure.csv", out, "--start", "1", "--limit", "1", "--format", "azure"
    )
    assert [(row.at, row.lengths) for row in open_trace(out)] == [(0.0, Lengths(396, 109))]


def test_import_gives_times_to_conversations_that_have_none(folder: Path, tmp_path: Path) -> None:
    source, out = folder / "traces" / "share.json", tmp_path / "out.parquet"
    refused = run("import", source, out)
    assert refused.exit_code == 1
    assert "no times" in refused.output
    first = report(tmp_path, "import", source, out, "--rate", "2", "--seed", "1")
    assert first["seed"] == 1
    rows = list(open_trace(out))
    assert len(rows) == 3
    report(tmp_path, "import", source, out, "--rate", "2", "--seed", "1")
    assert list(open_trace(out)) == rows


def test_import_counts_texts_with_a_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    source, out = putting(tmp_path)("share.json", SHAREGPT), tmp_path / "out.parquet"
    report(tmp_path, "import", source, out, "--rate", "1", "--tokenizer", tmp_path / "tokenizer.json", "--limit", "1")
    assert [row.lengths.prompt_tokens for row in open_trace(out) if row.lengths] == [400]
    (tmp_path / "tokenizer.json").write_text("{}")
    bad = run("import", source, out, "--rate", "1", "--tokenizer", tmp_path / "tokenizer.json")
    assert bad.exit_code == 1
    assert "tokenizer.json" in bad.output


@pytest.mark.parametrize(
    ("text", "out", "options", "said"),
    [
        ("# notes\n", "out.parquet", [], "mooncake"),
        (AZURE, "out.csv", [], ".jsonl"),
        (AZURE, "out.parquet", ["--format", "azur"], "azure"),
        (AZURE, "out.parquet", ["--format", "mooncake"], "line 1"),
        (AZURE, "out.parquet", ["--start", "9"], "no requests"),
        (AZURE, "out.parquet", ["--rate", "0"], "above 0"),
        (AZURE, "out.parquet", ["--time-scale", "-1"], "above 0"),
        (AZURE, "out.parquet", ["--limit", "1", "--rate", "3"], "two arrivals"),
    ],
)
def test_import_fails_with_a_word_and_writes_nothing(
    tmp_path: Path, text: str, out: str, options: list[str], said: str
) -> None:
    source = putting(tmp_path)("in.txt", text)
    result = run("import", source, tmp_path / out, *options)
    assert result.exit_code == 1
    assert said in result.output
    assert list(tmp_path.iterdir()) == [source]


def test_the_licence_and_source_of_a_trace_go_with_it(tmp_path: Path) -> None:
    source = putting(tmp_path)("AzureLLMInferenceTrace_conv.csv", AZURE)
    report(tmp_path, "import", source, tmp_path / "one.parquet")
    row = report(tmp_path, "import", tmp_path / "one.parquet", tmp_path / "two.parquet")["results"][0]
    assert row["licence"] == "CC-BY-4.0"
    listed = report(tmp_path, "list", "--data", tmp_path)["results"]
    assert {row["licence"] for row in listed} == {"CC-BY-4.0"}


class Server(http.server.BaseHTTPRequestHandler):
    """Serves the Azure sample; at /short it announces more than it sends, and knows nothing else."""

    def do_GET(self) -> None:
        body = AZURE.encode()
        found = self.path in {"/AzureLLMInferenceTrace_conv.csv", "/short"}
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body) + (100 if self.path == "/short" else 0)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


SHA = hashlib.sha256(AZURE.encode()).hexdigest()


def test_fetch_takes_a_url_and_checks_the_digest(tmp_path: Path, site: str) -> None:
    url = f"{site}/AzureLLMInferenceTrace_conv.csv"
    row = report(tmp_path, "fetch", url, "--sha256", SHA.upper(), "--data", tmp_path)["results"][0]
    path = tmp_path / "traces" / "AzureLLMInferenceTrace_conv.csv"
    assert path.read_bytes() == AZURE.encode()
    assert (row["file"], row["sha256"], row["checked"]) == (str(path), SHA, True)


def test_fetch_takes_a_name_from_another_place_and_a_file(tmp_path: Path, site: str) -> None:
    source = putting(tmp_path)("somewhere.csv", AZURE)
    for url in (f"{site}/AzureLLMInferenceTrace_conv.csv", source.as_uri()):
        row = report(tmp_path, "fetch", "azure-conv-2023", "--url", url, "--data", tmp_path, "--force")["results"][0]
        assert row["file"].endswith("traces/AzureLLMInferenceTrace_conv.csv")
        assert (row["licence"], row["checked"]) == ("CC-BY-4.0", False)


def test_fetch_leaves_a_file_that_is_there_unless_forced(tmp_path: Path) -> None:
    source = putting(tmp_path)("somewhere.csv", AZURE)
    target = tmp_path / "traces" / "BurstGPT_1.csv"
    target.parent.mkdir()
    target.write_text("mine")
    again = run("fetch", "burstgpt-1", "--url", source.as_uri(), "--data", tmp_path)
    assert again.exit_code == 1
    assert "--force" in again.output
    wrong = run("fetch", "burstgpt-1", "--url", source.as_uri(), "--data", tmp_path, "--force")
    assert wrong.exit_code == 1
    assert "azure, not burstgpt" in " ".join(wrong.output.split())
    assert target.read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        ("/nothing.csv", [], "404"),
        ("/short", [], "150 of 250 bytes"),
        ("/AzureLLMInferenceTrace_conv.csv", ["--sha256", "0" * 64], "SHA-256"),
    ],
)
def test_fetch_keeps_nothing_of_what_failed(
    tmp_path: Path, site: str, path: str, options: list[str], said: str
) -> None:
    result = run("fetch", f"{site}{path}", "--data", tmp_path, *options)
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())
    assert not list((tmp_path / "traces").iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "azure-conv-2023"),
        ("http://127.0.0.1:1/x.csv", "could not be downloaded"),
        ("ftp://example.invalid/x.csv", "https"),
        ("http://example.invalid/", "no file name"),
        ("file:///nonexistent/x.csv", "could not be downloaded"),
    ],
)
def test_fetch_says_what_would_be_right(tmp_path: Path, name: str, said: str) -> None:
    result = run("fetch", name, "--data", tmp_path)
    assert result.exit_code != 0
    assert said in " ".join(result.output.split())
