"""Prompts from files and from the suite: every form is read, every mistake is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from envs.prompts import PromptError, read_questions
from envs.tasks import content_hash, generate

PROMPTS = ["What is 1 + 1?", "Name a river.\nOr two."]


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".txt"):
        path.write_text("What is 1 + 1?\n\nName a river.\n")
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    elif name.endswith(".csv"):
        path.write_text('prompt_id,prompt\na1,What is 1 + 1?\nb2,"Name a river.\nOr two."\n')
    elif name.endswith(".csv.gz"):
        path.write_bytes(gzip.compress(b'prompt_id,prompt\na1,What is 1 + 1?\nb2,"Name a river.\nOr two."\n'))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"prompt": PROMPTS, "prompt_id": ["a1", "b2"]}), path)
    return path


@pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.csv.gz", "p.parquet"])
def test_every_form_of_file_is_read(tmp_path: Path, name: str) -> None:
    questions = read_questions(str(written(tmp_path, name)))
    assert [question.prompt for question in questions] == PROMPTS
    ids = [content_hash(prompt) for prompt in PROMPTS] if name == "p.jsonl" else ["a1", "b2"]
    assert [question.id for question in questions] == ids
    assert questions[0].chat == [{"role": "user", "content": PROMPTS[0]}]


def test_a_text_file_has_a_prompt_a_line_and_repeats_count_once(tmp_path: Path) -> None:
    path = written(tmp_path, "p.txt")
    path.write_text(path.read_text() * 2)
    assert [question.prompt for question in read_questions(str(path))] == ["What is 1 + 1?", "Name a river."]


def test_tasks_come_from_the_stream_of_the_seed() -> None:
    questions = read_questions("tasks:test:12", seed=5)
    assert [question.task for question in questions] == generate(5, 12, "test")
    assert [question.prompt for question in questions] == [t.prompt for t in generate(5, 12, "test")]


def test_conversations_keep_their_turns(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n")
    (question,) = read_questions(str(path))
    assert question.chat == turns
    assert question.prompt == "Be brief.\nHello"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.xls", "x", "unknown kind of file"),
        ("p.txt", "\n\n", "holds no prompt"),
        ("p.csv", "question\nWhat?\n", r"row 1: no 'prompt' \(there is question\)"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 3}\n', "row 2"),
        ("p.jsonl", "{", "cannot be read"),
        ("p.jsonl", "[1]\n", "row 1: not an object"),
        ("p.jsonl", '{"messages": "hi"}\n', "must be a list of messages"),
        ("p.parquet", "no parquet", "not a Parquet file"),
        ("p.csv.gz", "no gzip", "cannot be read"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(PromptError, match=said):
        read_questions(str(path))


@pytest.mark.parametrize("source", ["tasks:", "tasks:test", "tasks:exam:5", "tasks:test:0", "tasks:test:many"])
def test_a_wrong_task_source_is_explained(source: str) -> None:
    with pytest.raises(PromptError, match="tasks:SPLIT:COUNT"):
        read_questions(source)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(PromptError, match=r"absent\.txt: no such file"):
        read_questions("absent.txt")
