"""A job for lm-eval, run by the interpreter that has it: ``PYTHON lm_eval_runner.py JOB.json``.

It stands alone and imports nothing of llama-hub, which that interpreter need not have. One process
and one client for all tasks; each group of tasks with one number of shots leaves ``group-N.json``
and ``group-N.jsonl`` when it is done, and is not run again. A line of JSON on stdout tells each
step; the last one says how it ended.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADERS = "LLAMA_HUB_EVAL_HEADERS"  # JSON; not in the job's file, which is no place for a key
LOGLIKELIHOOD = ("loglikelihood", "loglikelihood_rolling", "multiple_choice")
SHARES = ("acc", "acc_norm", "acc_mutual_info", "exact_match", "em", "contains", "f1", "mc1", "mc2")
REVISION = re.compile(r"@([0-9a-f]{40})/")


def say(**what: Any) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main(job_path: str) -> int:
    """Run the job; 0 done, 2 the tasks cannot be run, 4 data or endpoint failed."""
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    try:
        tasks = importlib.import_module("lm_eval.tasks")
        manager = tasks.TaskManager(include_path=job["include"] or None)
    except Exception as error:
        say(end="broken", why=_words(error))
        return 4
    known = set(manager.all_tasks)
    named = [task for group in job["groups"] for task in group["tasks"]]
    unknown = [task for task in named if isinstance(task, str) and task not in known]
    if unknown:
        say(end="unknown", tasks=unknown)
        return 2
    try:
        return _run(job, manager)
    except Exception as error:
        say(end="failed", why=_words(error))
        return 4


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


class Clock:
    """How many requests the endpoint was asked, and for how long; answers of the cache are none."""

    def __init__(self, client: Any) -> None:
        self.asked = 0
        self.seconds = 0.0
        for name in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            setattr(client, name, self._timed(getattr(client, name)))

    def _timed(self, ask: Any) -> Any:
        def timed(requests: Any, *arguments: Any, **more: Any) -> Any:
            begun = time.monotonic()
            answers = ask(requests, *arguments, **more)
            self.seconds += time.monotonic() - begun
            self.asked += len(requests)
            return answers

        return timed

    def take(self) -> dict[str, Any]:
        """Since the last time."""
        taken = {"asked": self.asked, "seconds": round(self.seconds, 3)}
        self.asked, self.seconds = 0, 0.0
        return taken


def _run(job: dict[str, Any], manager: Any) -> int:
    client = _client(job)
    clock = Clock(client)
    ran = 0
    for number, group in enumerate(job["groups"]):
        place = Path(job["out"]) / f"group-{number}.json"
        if place.exists():
            say(group=number, tasks=_names(group), state="done before")
            ran += 1
            continue
        say(group=number, tasks=_names(group), state="loading")
        chosen = list(_fit(job, manager, group))
        if chosen:
            say(group=number, tasks=[_name(task) for task in chosen], state="running")
            results = _evaluated(job, manager, client, chosen, group["shots"])
            _write(place, results, job["programs"], clock.take())
            say(group=number, tasks=[_name(task) for task in chosen], state="done")
            ran += 1
    say(end="done" if ran else "nothing")
    return 0 if ran else 2


def _client(job: dict[str, Any]) -> Any:
    registry = importlib.import_module("lm_eval.api.registry")
    arguments = dict(job["arguments"])
    if job["model"] != "hf":
        arguments["header"] = json.loads(os.environ.get(HEADERS) or "{}")
    kind = registry.get_model(job["model"])
    return kind.create_from_arg_obj(arguments, {"batch_size": 1, "device": job.get("device")})


def _names(group: dict[str, Any]) -> list[str]:
    return [_name(task) for task in group["tasks"]]


def _name(task: Any) -> str:
    return str(task["task"] if isinstance(task, dict) else task)


def _fit(job: dict[str, Any], manager: Any, group: dict[str, Any]) -> Iterator[Any]:
    """The tasks of a group that the endpoint can be asked; the others are told, with the reason."""
    for task in group["tasks"]:
        loaded = manager.load([task])["tasks"].values()
        kinds = {each.get_config("output_type") for each in loaded}
        if any(each.get_config("unsafe_code") for each in loaded):
            why = "the harness would run the model's code itself, outside of any sandbox"
            say(refused=_name(task), why=why)
        elif kinds & set(LOGLIKELIHOOD) and job["no_logprobs"]:
            say(refused=_name(task), why=job["no_logprobs"])
        else:
            yield task


def _evaluated(
    job: dict[str, Any], manager: Any, client: Any, chosen: list[Any], shots: int | None
) -> dict[str, Any]:
    evaluator = importlib.import_module("lm_eval.evaluator")
    seed = job["seed"]
    results: dict[str, Any] = evaluator.simple_evaluate(
        model=client,
        tasks=chosen,
        num_fewshot=shots,
        limit=job["limit"],
        use_cache=job["cache"],
        log_samples=True,
        apply_chat_template=job["chat"],
        task_manager=manager,
        bootstrap_iters=1000,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        fewshot_random_seed=seed,
    )
    return results


# --- what is kept of the results ----------------------------------------------------------------


def _write(
    place: Path, results: dict[str, Any], programs: list[str], spent: dict[str, Any]
) -> None:
    samples = {task: list(_samples(task, results, programs)) for task in results.get("samples", {})}
    lines = [json.dumps(each, sort_keys=True) for listed in samples.values() for each in listed]
    place.with_suffix(".jsonl").write_text("".join(line + "\n" for line in lines))
    scores = [score for task in results["results"] for score in _scores(task, results, samples)]
    document = {"scores": scores, "harness": results.get("lm_eval_version") or _version()}
    document |= spent
    aside = place.with_suffix(".part")
    aside.write_text(json.dumps(document))
    aside.replace(place)


def _version() -> str:
    return importlib.import_module("importlib.metadata").version("lm_eval")  # type: ignore[no-any-return]


def _scores(
    task: str, results: dict[str, Any], samples: dict[str, list[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    stated = results["results"][task]
    members = _members(task, results)
    config = results.get("configs", {}).get(task, {})
    better = results.get("higher_is_better", {}).get(task, {})
    version = results.get("versions", {}).get(task)
    shots = results.get("n-shot", {}).get(task)
    count = sum(results["n-samples"][each]["effective"] for each in members)
    identity = _identity([hashes for each in members for hashes in _hashes(each, results)], version)
    for key, value in stated.items():
        name, comma, chosen = key.partition(",")
        if not comma or name.endswith("_stderr") or isinstance(value, str):
            continue
        metric = name if chosen == "none" else f"{name},{chosen}"
        error = stated.get(f"{name}_stderr,{chosen}")
        yield {
            "task": task,
            "metric": metric,
            "value": float(value),
            "stderr": float(error) if isinstance(error, int | float) else None,
            "n": count,
            "share": name in SHARES,
            "higher_is_better": better.get(name) is not False,
            "fewshot": shots if isinstance(shots, int) else None,
            "version": None if version is None else str(version),
            "task_hash": identity,
            "data": _data(config),
            "data_revision": _revision(task, config, results),
            "binary": _binary(metric, [each for m in members for each in samples.get(m, [])]),
        }


def _members(task: str, results: dict[str, Any]) -> list[str]:
    """The tasks of a group, however deep; the task itself if it is none."""
    below = results.get("group_subtasks", {}).get(task) or []
    found = [each for name in below for each in _members(name, results)]
    return found or ([task] if task in results["n-samples"] else [])


def _hashes(task: str, results: dict[str, Any]) -> list[str]:
    listed = results.get("samples", {}).get(task, [])
    keys = ("doc_hash", "prompt_hash", "target_hash")
    return sorted({" ".join(str(each.get(key)) for key in keys) for each in listed})


def _identity(hashes: list[str], version: Any) -> str:
    """A digest of every document, prompt and target that was asked."""
    text = json.dumps([str(version), *hashes])
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _data(config: dict[str, Any]) -> str | None:
    path, name = config.get("dataset_path"), config.get("dataset_name")
    return None if path is None else "/".join(filter(None, (str(path), str(name or ""))))[:200]


def _revision(task: str, config: dict[str, Any], results: dict[str, Any]) -> str | None:
    """The commit of the data that was loaded, where the files came from the Hub."""
    given = (config.get("dataset_kwargs") or {}).get("revision")
    if given:
        return str(given)[:200]
    return _commit(str(config.get("dataset_path")), config.get("dataset_name"))


@functools.cache
def _commit(path: str, name: str | None) -> str | None:
    try:
        datasets = importlib.import_module("datasets")
        builder = datasets.load_dataset_builder(path, name)
        match = REVISION.search(str(builder.config.data_files))
        return match[1] if match else None
    except Exception:
        return None


def _samples(task: str, results: dict[str, Any], programs: list[str]) -> Iterator[dict[str, Any]]:
    """One entry for each document, with the metrics of every filter."""
    spoken = results.get("configs", {}).get(task, {}).get("output_type") == "generate_until"
    merged: dict[str, dict[str, Any]] = {}
    for each in results["samples"][task]:
        key = f"{each['doc_hash'][:32]}-{each['doc_id']}"
        entry = merged.setdefault(key, {"task": task, "document": key, "metrics": {}})
        for name in each.get("metrics", []):
            value = each.get(name)
            chosen = each.get("filter", "none")
            if isinstance(value, bool | int | float):
                entry["metrics"][name if chosen == "none" else f"{name},{chosen}"] = float(value)
        if spoken:
            said = json.dumps(each["resps"], sort_keys=True, default=str)
            entry["answer"] = hashlib.sha256(said.encode()).hexdigest()[:32]
        if task in programs:
            entry["program"] = [each["doc"], _first(each["resps"])[:100_000]]
    yield from merged.values()


def _first(said: Any) -> str:
    while isinstance(said, list):
        said = said[0] if said else ""
    return str(said)


def _binary(metric: str, listed: list[dict[str, Any]]) -> bool:
    values = {each["metrics"].get(metric) for each in listed}
    return bool(values) and values <= {0.0, 1.0}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
