"""Public data that headway knows by name: where its publisher keeps it, under which licence, and in which format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

_AZURE = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/master/data"
_AZURE_2024 = "https://github.com/Azure/AzurePublicDataset/releases/download/dataset-llm-2024"
_MOONCAKE = "https://raw.githubusercontent.com/kvcache-ai/Mooncake/main/FAST25-release/traces"
_BURSTGPT = "https://github.com/HPMLL/BurstGPT/releases/download/v2.0"


@dataclass(frozen=True, slots=True)
class Known:
    """A public data set. ``file`` is its name in the data folder; ``url`` is where ``headway data fetch`` looks."""

    name: str
    file: str
    format: str
    licence: str
    title: str
    url: str | None = None


_ALL = (
    Known(
        "azure-conv-2023",
        "AzureLLMInferenceTrace_conv.csv",
        "azure",
        "CC-BY-4.0",
        "an hour of chat",
        f"{_AZURE}/AzureLLMInferenceTrace_conv.csv",
    ),
    Known(
        "azure-code-2023",
        "AzureLLMInferenceTrace_code.csv",
        "azure",
        "CC-BY-4.0",
        "an hour of code completion",
        f"{_AZURE}/AzureLLMInferenceTrace_code.csv",
    ),
    Known(
        "azure-conv-2024",
        "AzureLLMInferenceTrace_conv_1week.csv",
        "azure",
        "CC-BY-4.0",
        "a week of chat",
        f"{_AZURE_2024}/AzureLLMInferenceTrace_conv_1week.csv",
    ),
    Known(
        "azure-code-2024",
        "AzureLLMInferenceTrace_code_1week.csv",
        "azure",
        "CC-BY-4.0",
        "a week of code completion",
        f"{_AZURE_2024}/AzureLLMInferenceTrace_code_1week.csv",
    ),
    Known(
        "mooncake-conversation",
        "mooncake_conversation_trace.jsonl",
        "mooncake",
        "Apache-2.0",
        "chat with prefixes",
        f"{_MOONCAKE}/conversation_trace.jsonl",
    ),
    Known(
        "mooncake-toolagent",
        "mooncake_toolagent_trace.jsonl",
        "mooncake",
        "Apache-2.0",
        "tools and agents, with prefixes",
        f"{_MOONCAKE}/toolagent_trace.jsonl",
    ),
    Known(
        "mooncake-synthetic",
        "mooncake_synthetic_trace.jsonl",
        "mooncake",
        "Apache-2.0",
        "public data sets at synthetic times",
        f"{_MOONCAKE}/synthetic_trace.jsonl",
    ),
    Known(
        "burstgpt-1",
        "BurstGPT_1.csv",
        "burstgpt",
        "CC-BY-4.0",
        "two months of ChatGPT and GPT-4",
        f"{_BURSTGPT}/BurstGPT_1.csv",
    ),
    Known(
        "burstgpt-3",
        "BurstGPT_3.csv",
        "burstgpt",
        "CC-BY-4.0",
        "110 days, with sessions",
        f"{_BURSTGPT}/BurstGPT_3.csv",
    ),
    Known(
        "llmrouter",
        "llmrouter_9models.csv.gz",
        "routing table",
        "MIT",
        "correctness of 9 models",
    ),
    Known(
        "routellm",
        "routellm_mmlu_gsm8k_2models.csv.gz",
        "routing table",
        "Apache-2.0",
        "correctness of 2 models",
    ),
    Known("llmrouter-prices", "llmrouter_9models.prices.json", "price table", "MIT", "list prices of 9 models"),
    Known("h100-8b-4", "m8b_conv_r4.csv", "measured", "Apache-2.0", "vLLM on an H100, 8B, 4 requests/s"),
    Known("h100-8b-8", "m8b_conv_r8.csv", "measured", "Apache-2.0", "vLLM on an H100, 8B, 8 requests/s"),
    Known("h100-1b-10", "m1b_conv_r10.csv", "measured", "Apache-2.0", "vLLM on an H100, 1B, 10 requests/s"),
    Known("h100-1b-25", "m1b_conv_r25.csv", "measured", "Apache-2.0", "vLLM on an H100, 1B, 25 requests/s"),
    Known("arena-prompts", "arena_prompts.csv.gz", "length table", "Apache-2.0", "prompts"),
    Known("arena-lengths", "arena_lengths.csv.gz", "length table", "Apache-2.0", "output tokens of 22 models"),
    Known("arena-answers", "arena_answers.csv.gz", "length table", "Apache-2.0", "answers of 8 models"),
)
KNOWN: Mapping[str, Known] = MappingProxyType({one.name: one for one in _ALL})
"""By name."""
BY_FILE: Mapping[str, Known] = MappingProxyType({one.file: one for one in _ALL})
"""By the name of the file."""
