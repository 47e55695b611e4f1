"""Where routing labels come from: public tables, simulated workers that answer the task suite, collected answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape

from cli.missing import data_dir, fail

if TYPE_CHECKING:
    from predictors.latency.model import Profile
    from predictors.quality.evaluation import Study
    from predictors.quality.model import Price
    from predictors.quality.table import Labelled, RoutingTable

NINE: Final = "routing/llmrouter_9models.csv.gz"
NINE_PRICES: Final = "routing/llmrouter_9models.prices.json"
PAIR: Final = "routing/routellm_mmlu_gsm8k_2models.csv.gz"
LADDER: Final = ("h100-1b", "h100-8b", "h100-32b")

_SHARED_BY: Final = 32
"""Requests in flight for which a token of a simulated worker is priced …"""
_CONTEXT: Final = 512
"""… and their context in tokens."""
_STREAM: Final = 40_000
"""Added to the seed of the task suite, so that environments with small seeds do not meet the prompts learned from."""
_TEST_PROMPTS: Final = 2000
"""Prompts of the task suite's test split that judge."""
_KEPT_OUT: Final = 10
"""One in so many prompts of a public table is kept out of the artifact, by hash of its content."""
_FOLDS: Final = 5
_MOST_TASKS: Final = 14
"""With more tasks than that, they are dealt into folds."""


class Source(StrEnum):
    """A set of labels."""

    LLMROUTER = "llmrouter"
    """Nine models on 14 tasks, with list prices."""
    ROUTELLM = "routellm"
    """A weak and a strong model on MMLU and GSM8K; the cost is a call to the strong one."""
    TASKS = "tasks"
    """The task suite, answered and graded here by the simulated ladder."""
    ROWS = "rows"
    """Graded answers of your own models, as ``headway collect`` wrote them."""


LICENCES: Final = {
    Source.LLMROUTER: "MIT",
    Source.ROUTELLM: "Apache-2.0",
    Source.TASKS: "Apache-2.0 (generated here)",
}


@dataclass(frozen=True)
class Inputs:
    """What the command line says of sources. Exit code 2, and a clear word, where one is missing or malformed."""

    data: Path | None
    prompts: int
    seed: int
    rows: Sequence[Path] = ()
    """What ``headway collect`` wrote, for the source of that name."""
    prices: Path | None = None
    """Prices of its models; what their answers took in time where there are none."""
    licence: str = "not stated"
    """Of the collected answers."""

    def settings(self, sources: Sequence[Source]) -> dict[str, Any]:
        """What would read the same labels again, and what their costs mean."""
        from predictors.quality.frontier import LeftRule
        from predictors.quality.table import CHARS_PER_TOKEN, OUTPUT_TOKENS

        told = {
            Source.LLMROUTER: f"(characters / {CHARS_PER_TOKEN:g} in + {OUTPUT_TOKENS:g} out) x list price, in USD",
            Source.ROUTELLM: "calls to the strong model",
            Source.TASKS: f"GPU time of the profile at {_SHARED_BY} in flight x its hourly price, mean answer, in USD",
            Source.ROWS: (
                f"list prices in {self.prices}, mean answer, in USD"
                if self.prices
                else "time of the answers, an hour of one request at 1 USD, mean answer"
            ),
        }
        return {
            "sources": [source.value for source in sources],
            "costs": {source.value: told[source] for source in sources},
            "left_of_cheapest_point": LeftRule.NULL_ROUTER.value,
            "in_domain": f"{_FOLDS}-fold by hash of the prompt",
            "leave_one_out": f"a task a fold; tasks dealt into {_FOLDS} folds where there are more than {_MOST_TASKS}",
            "prompts": self.prompts if Source.TASKS in sources else None,
            "rows": [str(path) for path in self.rows] if Source.ROWS in sources else None,
        }

    def licence_of(self, source: Source) -> str:
        """Of the labels."""
        return self.licence if source is Source.ROWS else LICENCES[source]

    def read(self, source: Source) -> RoutingTable:
        """The labels that may be trained on."""
        from cli.routing_rows import read_rows
        from predictors.quality.table import TableError, read_pair, read_priced

        if source is Source.TASKS:
            return task_table(ladder(), seed=_STREAM + self.seed, prompts=self.prompts, split="train")
        try:
            if source is Source.ROWS:
                return read_rows(self.rows, self.prices)
            if source is Source.ROUTELLM:
                return read_pair(data_dir(self.data, PAIR) / PAIR)
            folder = data_dir(self.data, NINE)
            return read_priced(folder / NINE, folder / NINE_PRICES)
        except TableError as error:
            raise fail(escape(str(error))) from error

    def read_test(self) -> RoutingTable:
        """The task suite's test split, for judging what was trained on the train split."""
        return task_table(ladder(), seed=_STREAM + self.seed, prompts=_TEST_PROMPTS, split="test")

    def studies(self, source: Source) -> list[Study]:
        """All ways in which ``headway eval routing`` holds out prompts of a source."""
        from predictors.quality.evaluation import Study
        from predictors.quality.splits import Split, split

        table = self.read(source)
        data = embedded(table)
        tasks = len(set(table.tasks))
        dealt = {Split.IN_DOMAIN: _FOLDS, Split.LEAVE_ONE_OUT: tasks if tasks <= _MOST_TASKS else _FOLDS}
        studies = [
            Study(table.name, how, data, split(data, how, folds))
            for how, folds in dealt.items()
            if how is Split.IN_DOMAIN or tasks > 1
        ]
        if source is Source.ROUTELLM:
            studies.append(_transfer(table.name, data.take(data.tasks != "gsm8k"), data.take(data.tasks == "gsm8k")))
        if source is Source.TASKS:
            studies.append(_transfer(table.name, data, embedded(self.read_test())))
        return studies


def kept_out(source: Source, table: RoutingTable, inputs: Inputs) -> Study:
    """The rows an artifact is trained on, and those that judge it: in tasks, the suite's own test split."""
    import numpy as np

    from predictors.quality.evaluation import Study
    from predictors.quality.splits import NEVER, Split, by_content

    data = embedded(table)
    if source is Source.TASKS:
        return _transfer(table.name, data, embedded(inputs.read_test()))
    return Study(table.name, Split.IN_DOMAIN, data, np.where(by_content(data, _KEPT_OUT, salt=2) == 0, 0, NEVER))


def _transfer(name: str, train: Labelled, test: Labelled) -> Study:
    import numpy as np

    from predictors.quality.evaluation import Study
    from predictors.quality.splits import NEVER, Split
    from predictors.quality.table import join

    folds = np.repeat(np.array([NEVER, 0]), [len(train), len(test)])
    return Study(name, Split.TRANSFER, join(train, test), folds)


def embedded(table: RoutingTable) -> Labelled:
    """A table with its prompts embedded."""
    from predictors.embedding import Embedder
    from predictors.quality.table import label

    return label(table, Embedder().embed(table.prompts))


def ladder(names: Sequence[str] = LADDER) -> list[Profile]:
    """The shipped engine profiles of these names; exit code 2 where one is missing."""
    from controller.errors import StoreError
    from controller.store import ArtifactStore, shipped_models
    from predictors.latency.model import Profile

    store = ArtifactStore(shipped_models(), None)
    try:
        return [Profile.load(store.resolve(f"profile/{name}")) for name in names]
    except StoreError as error:
        raise fail(f"the simulated ladder needs the profiles {', '.join(names)}: {escape(str(error))}") from error


def task_table(profiles: Sequence[Profile], *, seed: int, prompts: int, split: str) -> RoutingTable:
    """Graded answers of simulated workers to tasks: one answer a prompt and profile, right (1) or wrong (0).

    Only the answers' texts are graded; a profile's skill table is read by nobody but its worker.
    """
    import numpy as np

    from envs.answers import TaskAnswerer, TaskBook, token_texts
    from envs.tasks import generate, grade
    from predictors.quality.model import query_usd
    from predictors.quality.table import CHARS_PER_TOKEN, RoutingTable

    tasks = generate(seed, prompts, split)
    workers = [TaskAnswerer(TaskBook(()), one.name, one.skill, one.verbosity) for one in profiles]
    answers = [[worker.answer_to(task) for worker in workers] for task in tasks]
    right = [[float(grade(task, text)) for text in row] for task, row in zip(tasks, answers, strict=True)]
    written = np.mean([[len(token_texts(text)) for text in row] for row in answers], axis=0)
    prices = tuple(busy_price(one, float(tokens)) for one, tokens in zip(profiles, written, strict=True))
    seen = "\0".join([*(task.prompt for task in tasks), *(text for row in answers for text in row)])
    return RoutingTable(
        name=f"tasks_{split}",
        ids=tuple(task.content for task in tasks),
        tasks=tuple(task.family for task in tasks),
        prompts=tuple(task.prompt for task in tasks),
        models=tuple(one.name for one in profiles),
        quality=np.array(right, dtype=np.float32),
        costs=query_usd(prices, [len(task.prompt) / CHARS_PER_TOKEN for task in tasks]),
        prices=prices,
        sha256=sha256(seen.encode()).hexdigest(),
    )


def busy_price(profile: Profile, output_tokens: float) -> Price:
    """What tokens cost on a worker of this profile that is kept busy: its time at its hourly price."""
    from predictors.quality.model import Price

    per_second = profile.usd_per_hour / 3600.0
    step = profile.step_seconds(0, _SHARED_BY, _SHARED_BY * _CONTEXT)
    return Price(per_second * profile.b * 1e6, per_second * step / _SHARED_BY * 1e6, output_tokens)
