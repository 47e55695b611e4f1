"""Small files as the public traces have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109\r\n"
    "2023-11-16 18:15:51.2224670,879,55\r\n"
)
AZURE_2024 = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2024-05-10 00:00:00.009930+00:00,2162,5\n"
    "2024-05-10 00:00:01+00:00,2399,6\n"
    "2024-05-10 00:00:01.250000+00:00,76,15\n"
)
BURSTGPT = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
    "45,ChatGPT,1087,0,1087,Conversation log\n"
    "118,GPT-4,417,276,693,Conversation log\n"
)
BURSTGPT_3 = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "19440110.0,1722ac82,43,GPT-4,906,446,1352,Conversation log\n"
    "19440161.0,,2,ChatGPT,36,29,65,API log\n"
)
SERVEGEN = "request_id,timestamp,input_tokens,output_tokens\n0,0.5,10,20\n1,1.2,15,25\n"
SERVEGEN_IMAGES = (
    "request_id,timestamp,text_tokens,output_tokens,image_tokens,audio_tokens,video_tokens\n"
    '0,3.0,10,20,"[100, 200]",[],[]\n'
)
MEASURED = (
    "i,arrival,prompt_tokens,output_tokens,chunks,ttft,e2e,itl_p50,itl_p99,itl_max,error\n"
    "0,0.0019,914,100,100,0.05199,0.69354,0.00624,0.02566,0.02566,\n"
    "1,0.5018,398,99,99,0.03887,0.6667,0.00635,0.01167,0.01167,\n"
    "2,0.9,398,99,0,,,,,,timeout\n"
)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


MOONCAKE = lines(
    {"timestamp": 3000, "input_length": 1536, "output_length": 500, "hash_ids": [0, 1, 2]},
    {"timestamp": 4500, "input_length": 700, "output_length": 3, "hash_ids": [0, 9]},
)
SHAREGPT = json.dumps(
    [
        {
            "id": "one",
            "conversations": [
                {"from": "human", "value": "a" * 400},
                {"from": "gpt", "value": "b" * 200},
                {"from": "human", "value": "c" * 40},
                {"from": "gpt", "value": "d" * 80},
            ],
        },
        {"id": "two", "conversations": [{"from": "gpt", "value": "hello"}]},
        {"id": "three", "conversations": [{"from": "human", "value": "e" * 8}, {"from": "gpt", "value": "f" * 4}]},
    ]
)
TURNS = json.dumps(
    [
        [
            {"turn": 0, "timestamp": 100.0, "input_token_count": 50, "output_token_count": 5, "input_tokens": [1]},
            {"turn": 1, "timestamp": 400.0, "input_token_count": 90, "output_token_count": 6, "input_tokens": [1, 2]},
        ],
        [{"turn": 0, "timestamp": 200.0, "input_token_count": 70, "output_token_count": 7, "input_tokens": [3]}],
    ]
)
RESULT = json.dumps(
    {
        "date": "20260101-000000",
        "backend": "vllm",
        "duration": 10.0,
        "request_throughput": 0.3,
        "input_lens": [100, 200, 300],
        "output_lens": [10, 0, 30],
        "start_times": [1002.5, 1003.0, 1000.5],
        "errors": ["", "timeout", ""],
    }
)
CUSTOM = lines({"prompt": "p" * 40, "output_tokens": 10}, {"prompt": "q" * 400, "output_tokens": 20})
STORED = lines(
    {"at": 2.0, "prompt_tokens": 5, "output_tokens": 6},
    {
        "at": 2.5,
        "prompt_tokens": 7,
        "output_tokens": 8,
        "prefix": [3],
        "prefix_block": 4,
        "session": "s",
        "tenant": "t",
    },
)
SAMPLES = {
    "azure": ("azure.csv", AZURE),
    "mooncake": ("mooncake.jsonl", MOONCAKE),
    "burstgpt": ("burst.csv", BURSTGPT),
    "servegen": ("workload.csv", SERVEGEN),
    "measured": ("m8b.csv", MEASURED),
    "sharegpt": ("share.json", SHAREGPT),
    "vllm-bench": ("result.json", RESULT),
    "vllm-custom": ("custom.jsonl", CUSTOM),
    "headway": ("own.jsonl", STORED),
}
"""A file of every format, by its name."""

Put = Callable[[str, str], Path]


def putting(folder: Path) -> Put:
    """Writes a text under a name."""

    def put(name: str, text: str) -> Path:
        path = folder / name
        path.write_bytes(text.encode())
        return path

    return put


def pool(folder: Path) -> Path:
    """A client pool of two clients; the second is silent in its first window."""
    folder.mkdir()
    first, second = "0,5.0,1.0,Gamma,1.0,0.2\n600,0,0,,0,0\n", "0,0,0,,0,0\n600,2.0,3.0,Weibull,0.5,0.1\n"
    sizes = {"0": {"input_tokens": "{10: 0.5, 30: 0.5}", "output_tokens": "{7: 1.0}"}}
    late = {
        "0": {"input_tokens": "{}", "output_tokens": "{}"},
        "600": {"input_tokens": "{99: 1.0}", "output_tokens": "{1: 1.0}"},
    }
    for number, trace, dataset in ((0, first, sizes), (3, second, late)):
        (folder / f"chunk-{number}-trace.csv").write_text(trace)
        (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(dataset))
    return folder
