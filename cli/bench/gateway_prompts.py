"""Chat requests of realistic length, no two alike, for generators in Lua and in Python.

The prompts are the task suite's questions, one or several to a prompt: the number is log-normal, which gives prompts of
some ten to some thousand tokens, about 100 in the mean, as people send to chat models. A file of them is gone through
again and again, and a tag at the prompt's end, which counts, keeps every request distinct from all others of a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cli.bench.gateway_upstream import MODEL

__all__ = ["PATH", "Requests", "prompts", "write"]

PATH = "/v1/chat/completions"
_MEDIAN_QUESTIONS = 1.6
_SIGMA = 0.9
_MOST_QUESTIONS = 40
_OUTPUT_TOKENS = 64


def prompts(count: int, seed: int) -> list[str]:
    """So many prompts, all different."""
    from envs.tasks import Split, stream

    rng = np.random.default_rng(seed)
    questions = (task.prompt for task in stream(seed, Split.TEST))
    sizes = np.clip(np.rint(rng.lognormal(np.log(_MEDIAN_QUESTIONS), _SIGMA, count)), 1, _MOST_QUESTIONS)
    return [" ".join(next(questions) for _ in range(int(size))) for size in sizes]


def write(path: Path, texts: Sequence[str], keys: Sequence[str]) -> None:
    """One request a line: a tenant's key, a tab, and the prompt as the inside of a JSON string."""
    lines = [f"{keys[i % len(keys)]}\t{json.dumps(text)[1:-1]}\n" for i, text in enumerate(texts)]
    path.write_text("".join(lines), encoding="ascii")


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one run, as bytes on the wire. ``run`` is four hexadecimal digits that no other run has.

    What :data:`LUA` of :mod:`cli.bench.gateway_wrk` builds is the same, byte for byte but for the tag.
    """

    lines: tuple[tuple[bytes, bytes], ...]
    """Key and prompt of each."""
    run: str
    streams: bool

    @classmethod
    def read(cls, path: Path, run: str, streams: bool) -> Requests:
        """Requests from a file that :func:`write` wrote."""
        rows = (line.split("\t", 1) for line in path.read_text(encoding="ascii").splitlines())
        return cls(tuple((key.encode(), prompt.encode()) for key, prompt in rows), run, streams)

    def __iter__(self) -> Iterator[bytes]:
        """Without end."""
        number = 0
        while True:
            for key, prompt in self.lines:
                body = b'{"model":"%b","messages":[{"role":"user","content":"%b [%b%010x]"}],%b}' % (
                    MODEL.encode(),
                    prompt,
                    self.run.encode(),
                    number,
                    rest(self.streams),
                )
                head = b"POST %b HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n" % PATH.encode()
                yield head + b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n" % (key, len(body)) + body
                number += 1


def rest(streams: bool) -> bytes:
    """The fields after the messages. A stream is asked for its usage, as a client that accounts for tokens asks."""
    limit = b'"max_tokens":%d' % _OUTPUT_TOKENS
    return limit + b',"stream":true,"stream_options":{"include_usage":true}' if streams else limit
