from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from predictors.quality.table import TableError, content_key, join, read_pair, read_priced
from tests.predictors.quality.labels import clusters

HEAD = "prompt_id,task,prompt,weak,strong\n"
ROWS = 'a,maths,"Two, and\ntwo?",0,1.0\nb,poems,Hello,0.5,0\n'


def csv(folder: Path, text: str) -> Path:
    path = folder / "small.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    return path


def prices(folder: Path, *models: str) -> Path:
    path = folder / "prices.json"
    path.write_text(json.dumps({m: {"input_usd_per_mtok": 4.0, "output_usd_per_mtok": 5.0} for m in models}))
    return path


def test_a_priced_table(tmp_path: Path) -> None:
    table = read_priced(csv(tmp_path, HEAD + ROWS), prices(tmp_path, "weak", "strong"))
    assert table.name == "small"
    assert table.models == ("weak", "strong")
    assert table.prompts == ("Two, and\ntwo?", "Hello")
    assert table.tasks == ("maths", "poems")
    assert table.quality.tolist() == [[0.0, 1.0], [0.5, 0.0]]
    # 13 characters are 3.25 tokens at $4, and every answer is counted as 200 tokens at $5 (a million).
    assert table.costs[0].tolist() == pytest.approx([(3.25 * 4 + 200 * 5) / 1e6] * 2)


def test_a_pair_costs_calls_to_the_strong_model(tmp_path: Path) -> None:
    assert read_pair(csv(tmp_path, HEAD + ROWS)).costs.tolist() == [[0.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,task,prompt,m\n", "columns must be"),
        (HEAD, "no rows"),
        (HEAD + "a,t,p,0\n", "line 2"),
        (HEAD + ROWS + "c,t,p,0,good\n", "line 5"),
        (HEAD + "a,t,p,0,1.5\n", "from 0 to 1"),
        ("", "columns must be"),
    ],
)
def test_a_malformed_table_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TableError, match=said):
        read_pair(csv(tmp_path, text))


def test_what_is_not_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv.gz"
    path.write_text(HEAD + ROWS)
    with pytest.raises(TableError, match="gzip"):
        read_pair(path)


def test_three_models_are_no_pair(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="two models"):
        read_pair(csv(tmp_path, "prompt_id,task,prompt,a,b,c\nx,t,p,0,1,1\n"))


def test_a_model_without_a_price_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="strong"):
        read_priced(csv(tmp_path, HEAD + ROWS), prices(tmp_path, "weak"))


def test_duplicates_share_a_key() -> None:
    assert content_key("What is  2+2?\n") == content_key("what is 2+2?")
    assert content_key("What is 2+2?") != content_key("What is 2+3?")


def test_join_and_take_keep_rows_together() -> None:
    first, second = clusters(10), clusters(6, task=1)
    both = join(first, second)
    assert len(both) == 16
    part = both.take(np.arange(16) >= 10)
    assert np.array_equal(part.embeddings, second.embeddings)
    assert part.tasks.tolist() == second.tasks.tolist()
