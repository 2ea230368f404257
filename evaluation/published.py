"""Published scores as data: 605 values of 25 models, each with its source.

They were measured with prompts that nobody outside has. ``comparable`` says of a score of ours and
a published one whether the stated setting is the same; it never says that one reproduces the other.
Three cells are flagged, because their sources contradict themselves, and are shown, not compared.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from llama_hub.errors import UsageError
from llama_hub.evaluation.record import Record, Score
from llama_hub.schema import did_you_mean

COLUMNS = ("model", "benchmark", "setting", "score", "source", "flag", "note")
Class = Literal["same setting", "other setting", "not comparable"]


@dataclass(frozen=True)
class Published:
    """One value as its source states it."""

    model: str
    benchmark: str
    setting: str
    score: float  # per cent
    source: str
    flag: str = ""  # inconsistent or suspect; empty for all but three
    note: str = ""

    @property
    def shots(self) -> int | None:
        """Of the setting, where it states a number."""
        match = re.match(r"(\d+)-shot", self.setting)
        return int(match[1]) if match else None


@dataclass(frozen=True)
class Beside:
    """A score of ours beside a published one."""

    score: Score
    published: Published
    comparable: Class
    why: str = ""  # where it is not the same setting

    @property
    def difference(self) -> float | None:
        """Ours less theirs in percentage points; ``None`` where they do not compare."""
        if self.comparable == "not comparable" or self.published.flag:
            return None
        return 100 * self.score.value - self.published.score


# lm-eval's task → (the paper's benchmark, lm-eval's metric that it is nearest to)
TASKS: dict[str, tuple[str, str]] = {
    "mmlu": ("MMLU", "acc"),
    "mmlu_humanities": ("MMLU Humanities", "acc"),
    "mmlu_stem": ("MMLU STEM", "acc"),
    "mmlu_social_sciences": ("MMLU Social Sciences", "acc"),
    "mmlu_other": ("MMLU Other", "acc"),
    "boolq": ("BoolQ", "acc"),
    "piqa": ("PIQA", "acc"),
    "hellaswag": ("HellaSwag", "acc_norm"),
    "winogrande": ("WinoGrande", "acc"),
    "arc_easy": ("ARC-e", "acc"),
    "arc_challenge": ("ARC-c", "acc"),
    "openbookqa": ("OBQA", "acc_norm"),
    "social_iqa": ("SIQA", "acc"),
    "commonsense_qa": ("CommonsenseQA", "acc"),
    "nq_open": ("Natural Questions", "exact_match"),
    "triviaqa": ("TriviaQA (Wiki dev)", "exact_match"),
    "gsm8k": ("GSM8K", "exact_match"),
    "bbh": ("BBH", "exact_match"),
    "agieval_en": ("AGIEval English", "acc"),
    "humaneval": ("HumanEval", "pass@1"),
    "mbpp": ("MBPP", "pass_at_1"),
    "truthfulqa_mc1": ("TruthfulQA", "acc"),
    "truthfulqa_mc2": ("TruthfulQA", "acc"),
    "toxigen": ("ToxiGen", "acc"),
}
STATED = ("MMLU", "BoolQ", "PIQA", "HellaSwag", "WinoGrande", "ARC-e", "ARC-c")  # in full
OTHER_MEASURE = {
    "TruthfulQA": "the paper counts true and informative generations, judged by a GPT-3; the "
    "harness scores multiple choice",
    "ToxiGen": "the paper counts toxic generations with a classifier; the harness scores a choice",
}


@cache
def scores() -> tuple[Published, ...]:
    """All values, in the order of the file."""
    text = (files("llama_hub.evaluation") / "published_scores.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            row["model"], row["benchmark"], row["setting"], float(row["score"]), row["source"],
            row["flag"], row["note"],
        )
        for row in csv.DictReader(text.splitlines())
    )  # fmt: skip


def models() -> list[str]:
    """Their names, each once."""
    return list(dict.fromkeys(each.model for each in scores()))


def model_of(name: str | None) -> str | None:
    """The published model that a catalogue id means, or ``None``."""
    wanted = re.sub(r"[^a-z0-9.]", "", (name or "").lower()).removesuffix("hf")
    for known in models():
        if re.sub(r"[^a-z0-9.]", "", known.lower()) == wanted:
            return known
    return None


def chosen(against: str, record: Record) -> list[str]:
    """The models that ``published[:MODEL,…]`` names, the record's own where it names none.

    ``UsageError`` for a model of which nothing was published, or a record of such a one.
    """
    _, _, named = against.partition(":")
    if not named:
        own = model_of(record.subject.model) or model_of(record.subject.name)
        if own is None:
            raise UsageError(
                f"nothing is published of {record.subject.model or record.subject.name!r}",
                hint=f"--against published:MODEL, one of {', '.join(models())}",
            )
        return [own]
    found: list[str] = []
    for word in named.split(","):
        model = model_of(word)
        if model is None:
            near = did_you_mean(word, models())
            raise UsageError(
                f"nothing is published of {word[:100]!r}{near}",
                hint=f"one of {', '.join(models())}",
            )
        found.append(model)
    return found


def beside(record: Record, names: Sequence[str]) -> list[Beside]:
    """Each score of ours beside each published value of the same benchmark."""
    pairs: list[Beside] = []
    for score in record.scores:
        benchmark, metric = TASKS.get(score.task, ("", ""))
        if not benchmark or score.metric.partition(",")[0] != metric:
            continue
        for each in scores():
            if each.model in names and each.benchmark == benchmark:
                pairs.append(Beside(score, each, *_comparable(record, score, each)))
    return pairs


def _comparable(record: Record, score: Score, each: Published) -> tuple[Class, str]:
    if each.benchmark in OTHER_MEASURE:
        return "not comparable", OTHER_MEASURE[each.benchmark]
    if each.flag:
        return "not comparable", f"{each.flag}: {each.note}"
    if record.limit is not None:
        return "other setting", f"only {score.n} documents"
    if each.shots is not None and score.fewshot is not None and each.shots != score.fewshot:
        return "other setting", f"{score.fewshot}-shot against {each.shots}-shot"
    if record.template is not None:
        return "other setting", "with a chat template"
    if each.benchmark not in STATED or not each.source.startswith("Llama 2 paper"):
        return "other setting", "the prompt and the rating of the source are its own"
    return "same setting", ""
