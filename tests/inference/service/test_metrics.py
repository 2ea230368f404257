"""``/metrics``: valid text format, the names that dashboards scrape, numbers that add up."""

from __future__ import annotations

import re

import httpx
import pytest

from llama_hub.inference.engine import EngineInfo, EngineStats
from llama_hub.inference.service.metrics import Histogram, Metrics
from tests.support.serving import serving

LINE = re.compile(
    r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?P<labels>[a-zA-Z_]+="[^"\n]*"(,[a-zA-Z_]+="[^"\n]*")*)\})?'
    r" (?P<value>-?[0-9.e+-]+)"
)


def scrape(url: str) -> dict[str, float]:
    """Every sample by its name and labels; each line must be well-formed and declared."""
    answer = httpx.get(f"{url}/metrics", trust_env=False)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples, declared = {}, set()
    assert answer.text.endswith("\n")
    for line in answer.text.splitlines():
        if line.startswith("# TYPE "):
            declared.add(line.split()[2])
        elif not line.startswith("# HELP "):
            found = LINE.fullmatch(line)
            assert found, line
            family = re.sub(r"_(bucket|sum|count)$", "", found["name"])
            assert found["name"] in declared or family in declared, line
            samples[line.rsplit(" ", 1)[0]] = float(found["value"])
    return samples


def test_names_that_users_scrape_and_numbers_that_add_up() -> None:
    with serving() as running:
        before = scrape(running.url)
        for stop in (None, "two"):
            body = {"prompt": "one two", "max_tokens": 8, "stop": stop}
            assert httpx.post(
                f"{running.url}/v1/completions", json=body, trust_env=False
            ).is_success
        after = scrape(running.url)
    label = '{model_name="echo-model"}'
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert after[f"vllm:{name}{label}"] == 0
    made = after[f"vllm:generation_tokens_total{label}"]
    assert made - before[f"vllm:generation_tokens_total{label}"] >= 8
    assert after[f"vllm:prompt_tokens_total{label}"] > 0
    assert after[f"vllm:time_to_first_token_seconds_count{label}"] == 2
    assert after[f"vllm:e2e_request_latency_seconds_count{label}"] == 2
    assert after['vllm:request_success_total{model_name="echo-model",finished_reason="stop"}'] == 1
    assert (
        after['vllm:request_success_total{model_name="echo-model",finished_reason="length"}'] == 1
    )
    assert after['llama_hub_http_requests_total{route="/v1/completions",status="200"}'] == 2


# What the panels of vLLM's example dashboard query (examples/online_serving/prometheus_grafana).
PANELS = """
e2e_request_latency_seconds_bucket e2e_request_latency_seconds_sum e2e_request_latency_seconds_count
prompt_tokens_total generation_tokens_total time_per_output_token_seconds_bucket
time_per_output_token_seconds_sum time_per_output_token_seconds_count num_requests_running
num_requests_waiting time_to_first_token_seconds_bucket time_to_first_token_seconds_sum
time_to_first_token_seconds_count gpu_cache_usage_perc request_prompt_tokens_bucket
request_generation_tokens_bucket request_success_total request_queue_time_seconds_sum
request_prefill_time_seconds_sum request_decode_time_seconds_sum
request_max_num_generation_tokens_sum
""".split()


def test_each_panel_of_vllms_dashboard_has_its_numbers() -> None:
    with serving() as running:
        body = {"prompt": "one two", "max_tokens": 8, "n": 2}
        httpx.post(f"{running.url}/v1/completions", json=body, trust_env=False)
        samples = scrape(running.url)
        prompt = len(running.engine.seen[-1].prompt)
    label = 'model_name="echo-model"'
    for panel in PANELS:
        assert any(name.startswith(f"vllm:{panel}{{{label}") for name in samples), panel
    assert samples[f"vllm:request_prompt_tokens_sum{{{label}}}"] == 2 * prompt
    assert samples[f"vllm:request_generation_tokens_sum{{{label}}}"] == 16
    assert samples[f"vllm:request_params_max_tokens_sum{{{label}}}"] == 16
    assert samples[f"vllm:request_params_n_sum{{{label}}}"] == 4
    parts = ("queue", "prefill", "decode")
    whole = samples[f"vllm:e2e_request_latency_seconds_sum{{{label}}}"]
    sums = [samples[f"vllm:request_{part}_time_seconds_sum{{{label}}}"] for part in parts]
    assert sum(sums) == pytest.approx(whole, rel=0.01)


def test_buckets_are_cumulative() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 3.0):
        histogram.observe(value)
    lines = {suffix + labels.get("le", ""): value for suffix, labels, value in histogram.samples()}
    assert lines == {
        "_bucket0.1": 2, "_bucket1": 3, "_bucket+Inf": 4, "_sum": pytest.approx(3.65), "_count": 4,
    }  # fmt: skip


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    text = metrics.exposition(None, None, 'a"b\\c\nd', "")
    assert r'model_name="a\"b\\c\nd"' in text


def test_unknown_routes_are_one_series() -> None:
    with serving() as running:
        for path in ("/nope", "/secret/path"):
            httpx.get(running.url + path, trust_env=False)
        samples = scrape(running.url)
    assert samples['llama_hub_http_requests_total{route="unknown",status="404"}'] == 2
    assert not any("secret" in name for name in samples)


def test_how_each_kind_of_step_is_computed() -> None:
    info = EngineInfo(
        "torch", "cuda:0", "bfloat16", None, 128, 300, 4,
        {"decode 4": "graph, triton", "mixed": "plain"},
    )  # fmt: skip
    page = Metrics().exposition(info, EngineStats(0, 0, 0.0, 0, 0, 0, 0, 0, 0), "m", "sha256:1")
    assert 'llama_hub_step_mode{model_name="m",step="decode 4",mode="graph, triton"} 1' in page
    assert 'llama_hub_step_mode{model_name="m",step="mixed",mode="plain"} 1' in page
