"""``/metrics`` in Prometheus' text format, under the names that vLLM's dashboards scrape.

Written out here because the format is four kinds of line; a client library
would bring a registry that is global to the process.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from llama_hub import __version__
from llama_hub.inference.engine import EngineInfo, EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0,
    2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
)  # fmt: skip
TOKEN_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0,
    2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
REQUEST_BUCKETS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0,
    2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
)  # fmt: skip
LENGTH_BUCKETS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000,
)  # fmt: skip
COUNT_BUCKETS = (1, 2, 5, 10, 20)
HTTP_REQUESTS = "llama_hub_http_requests_total"
LATELY = 64  # answers that the mean duration looks back on
_OF_REQUEST = (
    ("queue_time_seconds", "Acceptance to the engine's first step.", REQUEST_BUCKETS),
    ("prefill_time_seconds", "The engine's first step to the first token.", REQUEST_BUCKETS),
    ("decode_time_seconds", "First token to last token.", REQUEST_BUCKETS),
    ("inference_time_seconds", "The engine's first step to the last token.", REQUEST_BUCKETS),
    ("prompt_tokens", "Prompt tokens of a sequence.", LENGTH_BUCKETS),
    ("generation_tokens", "Tokens that a sequence made.", LENGTH_BUCKETS),
    ("max_num_generation_tokens", "Tokens that a sequence made.", LENGTH_BUCKETS),
    ("params_max_tokens", "Tokens that a sequence might have made.", LENGTH_BUCKETS),
    ("params_n", "Sequences of a prompt.", COUNT_BUCKETS),
    ("time_per_output_token_seconds", "Mean of a sequence, token to token.", TOKEN_BUCKETS),
)


class Histogram:
    """Counts of observations up to each bound, and their sum; seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value`` ``times`` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """(suffix, labels, value) of every line."""
        below = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            below += count
            yield "_bucket", {"le": "+Inf" if bound == float("inf") else f"{bound:g}"}, below
        yield "_sum", {}, self.sum
        yield "_count", {}, below


@dataclass
class Course:
    """How one sequence went."""

    prompt: int  # tokens
    limit: int  # tokens that it may have made
    n: int = 1  # sequences of its prompt
    begun: float = field(default_factory=time.monotonic)
    queued: float = 0.0  # seconds before the engine's first step for it
    first: float | None = None  # when its first token came
    generated: int = 0  # tokens


class Metrics:
    """What the service measured; the engine keeps its own counters."""

    def __init__(self) -> None:
        self._first_token = Histogram(FIRST_TOKEN_BUCKETS)
        self._next_token = Histogram(TOKEN_BUCKETS)
        self._request = Histogram(REQUEST_BUCKETS)
        self._of_request = {
            name: (help_text, Histogram(bounds)) for name, help_text, bounds in _OF_REQUEST
        }
        self._embedded = Histogram(REQUEST_BUCKETS)
        self._finished: Counter[str] = Counter()
        self._http: Counter[tuple[str, str]] = Counter()
        self._verdicts: Counter[tuple[str, str, str]] = Counter()
        self._judging: dict[str, Histogram] = {}  # by moderator
        self._lately: deque[float] = deque(maxlen=LATELY)

    def step(self, seconds: float, tokens: int, *, first: bool) -> None:
        """A step took ``seconds`` and brought ``tokens`` (at least one) to a sequence."""
        if first:
            self._first_token.observe(seconds)
        else:
            self._next_token.observe(seconds / tokens, tokens)

    def finished(self, reason: str, course: Course) -> None:
        """A sequence ended for ``reason`` (stop, length, content_filter, abort)."""
        self._finished[reason] += 1
        if reason == "abort":
            return
        now = time.monotonic()
        seconds = now - course.begun
        self._request.observe(seconds)
        self._lately.append(seconds)
        first = course.first or now
        decode = now - first
        for name, value in (
            ("queue_time_seconds", course.queued),
            ("prefill_time_seconds", max(0.0, first - course.begun - course.queued)),
            ("decode_time_seconds", decode),
            ("inference_time_seconds", max(0.0, seconds - course.queued)),
            ("prompt_tokens", course.prompt),
            ("generation_tokens", course.generated),
            ("max_num_generation_tokens", course.generated),
            ("params_max_tokens", course.limit),
            ("params_n", course.n),
        ):
            self._of_request[name][1].observe(value)
        if course.generated > 1:
            mean = decode / (course.generated - 1)
            self._of_request["time_per_output_token_seconds"][1].observe(mean)

    def embedded(self, seconds: float) -> None:
        """A text became a vector, ``seconds`` after it was given to the engine."""
        self._embedded.observe(seconds)

    def answered(self, route: str, status: int) -> None:
        """An HTTP request to ``route`` was answered."""
        self._http[route, str(status)] += 1

    def judged(self, moderator: str, stage: str, outcome: str, seconds: float) -> None:
        """A moderator gave a verdict on a text, or failed to."""
        self._verdicts[moderator, stage, outcome] += 1
        self._judging.setdefault(moderator, Histogram(FIRST_TOKEN_BUCKETS)).observe(seconds)

    @property
    def recent_seconds(self) -> float:
        """Mean duration of the last answers in seconds; 1 before the first."""
        return sum(self._lately) / len(self._lately) if self._lately else 1.0

    def exposition(
        self, info: EngineInfo | None, stats: EngineStats | None, model: str, manifest: str
    ) -> str:
        """The whole page; without ``info`` and ``stats`` (still loading) what there is."""
        lines: list[str] = []
        named = {"model_name": model}
        if info is not None and stats is not None:
            lines += _engine(info, stats, named, manifest)
        for name, help_text, histogram in (
            ("vllm:time_to_first_token_seconds", "Acceptance to first token.", self._first_token),
            ("vllm:inter_token_latency_seconds", "Token to token.", self._next_token),
            # The name that vLLM's dashboard still asks for.
            ("vllm:time_per_output_token_seconds", "Token to token.", self._next_token),
            ("vllm:e2e_request_latency_seconds", "Acceptance to last token.", self._request),
            ("llama_hub_embedding_seconds", "A text to its vector.", self._embedded),
            *((f"vllm:request_{name}", *rest) for name, rest in self._of_request.items()),
        ):
            samples = [(s, {**named, **labels}, v) for s, labels, v in histogram.samples()]
            lines += family(name, "histogram", help_text, samples)
        lines += family(
            "vllm:request_success_total",
            "counter",
            "Sequences by how they ended.",
            [("", {**named, "finished_reason": r}, n) for r, n in sorted(self._finished.items())],
        )
        lines += self.http()
        lines += self._moderation(named)
        return "\n".join(lines) + "\n"

    def http(self) -> list[str]:
        """The lines about HTTP requests."""
        return family(
            HTTP_REQUESTS,
            "counter",
            "HTTP requests by route and status.",
            [("", {"route": r, "status": s}, n) for (r, s), n in sorted(self._http.items())],
        )

    def _moderation(self, named: Mapping[str, str]) -> list[str]:
        """Verdicts and how long they took; no line before the first."""
        if not self._verdicts:
            return []
        counted = [
            ("", {**named, "moderator": name, "stage": stage, "verdict": outcome}, count)
            for (name, stage, outcome), count in sorted(self._verdicts.items())
        ]
        timed = [
            (suffix, {**named, "moderator": name, **labels}, value)
            for name, histogram in sorted(self._judging.items())
            for suffix, labels, value in histogram.samples()
        ]
        name = "llama_hub_moderation"
        return [
            *family(f"{name}_verdicts_total", "counter", "Verdicts of moderators.", counted),
            *family(f"{name}_seconds", "histogram", "A moderator's time for a text.", timed),
        ]


def _engine(
    info: EngineInfo, stats: EngineStats, named: Mapping[str, str], manifest: str
) -> list[str]:
    about = {
        "version": __version__,
        "model": named["model_name"],
        "manifest": manifest,
        "engine": info.engine,
        "device": info.device,
        "dtype": info.dtype,
        "quantization": info.quantization or "",
    }
    lines = family("llama_hub_info", "gauge", "What runs; always 1.", [("", about, 1)])
    for name, kind, help_text, value in (
        ("vllm:num_requests_running", "gauge", "Sequences being decoded.", stats.running),
        ("vllm:num_requests_waiting", "gauge", "Sequences waiting.", stats.waiting),
        ("vllm:kv_cache_usage_perc", "gauge", "KV cache in use, 0 to 1.", stats.kv_usage),
        # The name that vLLM's dashboard still asks for.
        ("vllm:gpu_cache_usage_perc", "gauge", "KV cache in use, 0 to 1.", stats.kv_usage),
        ("vllm:prompt_tokens_total", "counter", "Prompt tokens.", stats.prompt_tokens),
        ("vllm:generation_tokens_total", "counter", "Tokens made.", stats.generated_tokens),
        (
            "vllm:prefix_cache_queries_total",
            "counter",
            "Tokens looked up in the prefix cache.",
            stats.prefix_queries,
        ),
        (
            "vllm:prefix_cache_hits_total",
            "counter",
            "Tokens found in the prefix cache.",
            stats.prefix_hits,
        ),
        ("vllm:num_preemptions_total", "counter", "Preemptions.", stats.preemptions),
        ("llama_hub_memory_bytes", "gauge", "Weights and cache.", stats.memory_bytes),
    ):
        lines += family(name, kind, help_text, [("", named, value)])
    lines += _speculation(stats, named)
    modes = [("", {**named, "step": s, "mode": m}, 1) for s, m in info.step_modes.items()]
    return lines + family("llama_hub_step_mode", "gauge", "How steps run; always 1.", modes)


def family(
    name: str,
    kind: str,
    help_text: str,
    samples: Iterable[tuple[str, Mapping[str, str], float]],
) -> list[str]:
    """The lines of one family."""
    # A counter's family is declared under its full name: what scrapers of format 0.0.4 expect.
    return [
        f"# HELP {name} {help_text}",
        f"# TYPE {name} {kind}",
        *(f"{name}{suffix}{labels(given)} {value:.10g}" for suffix, given, value in samples),
    ]


def labels(given: Mapping[str, str]) -> str:
    """The labels of a line, in braces; nothing for none."""
    pairs = (f'{name}="{_escaped(value)}"' for name, value in given.items())
    return "{" + ",".join(pairs) + "}" if given else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _speculation(stats: EngineStats, named: Mapping[str, str]) -> list[str]:
    if not stats.accepted_tokens:
        return []  # it does not guess
    lines: list[str] = []
    for name, help_text, value in (
        ("drafts", "Steps of a sequence with guessed tokens.", stats.drafts),
        ("draft_tokens", "Guessed tokens.", stats.draft_tokens),
        ("accepted_tokens", "Guessed tokens that were right.", sum(stats.accepted_tokens)),
    ):
        full = f"vllm:spec_decode_num_{name}_total"
        lines += family(full, "counter", help_text, [("", named, value)])
    places = [
        ("", {**named, "position": str(place)}, count)
        for place, count in enumerate(stats.accepted_tokens)
    ]
    full = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    return lines + family(full, "counter", "Right guesses by their place.", places)
