"""A JSON schema that asks for too much is refused by its part, and never holds others up."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import UsageError
from llama_hub.inference import grammar
from llama_hub.inference.grammar import Grammar, GrammarCompiler
from llama_hub.inference.schema_compiler import SchemaCompiler
from llama_hub.inference.schema_limits import SchemaError, parse
from llama_hub.inference.schema_trial import Trial
from llama_hub.inference.tokenizer import Tokenizer
from tests.inference.conftest import Serving
from tests.support.hf_models import ask, prompt
from tests.support.serving import DEMO

Model = Callable[..., Path]
TOKENIZER = DEMO / "tokenizer.model"


def nested(levels: int) -> Any:
    schema: Any = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def chain(length: int) -> Any:
    """References that nest ``length`` arrays: the compiler's recursion overflows the stack."""
    steps = {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(length)}
    last = {f"d{length}": {"type": "integer"}}
    return {"$defs": steps | last, "$ref": "#/$defs/d0"}


def properties(**parts: Any) -> Any:
    return {"type": "object", "properties": {"fine": {"type": "integer"}} | parts}


STATIC = {
    "properties.a.multipleOf": properties(a={"type": "integer", "multipleOf": 9999991}),
    "properties.a.items.multipleOf": properties(
        a={"items": {"type": "number", "multipleOf": 0.99991}}
    ),
    "properties.p4.multipleOf": properties(
        **{f"p{n}": {"type": "integer", "multipleOf": 9973} for n in range(5)}
    ),
    "properties.a.allOf": properties(
        a={"type": "integer", "allOf": [{"multipleOf": n} for n in (97, 89, 83)]}
    ),
    "items.items.items.items": nested(70),
    "properties.a.const": properties(a={"const": "x" * 5000}),
    "properties": properties(**{"x" * 5000: {}}),
    "properties.a.pattern": properties(a={"type": "string", "pattern": "(a|b)?" * 800}),
    "properties.a.x-guidance": properties(a={"x-guidance": {"lenient": True}}),
    "minimum": {"type": "integer", "minimum": 10**401},
    "": {"enum": list(range(25_000))},
}
TRIED = {
    "properties.bad": properties(bad={"not": {"type": "string"}}),
    "allOf.1": {"allOf": [{"minimum": 1}, {"type": "array", "items": {"uniqueItems": True}}]},
    "properties": {
        "type": "object",
        "properties": {f"p{n}": {"type": "integer"} for n in range(1500)},
        "additionalProperties": False,
    },
    "properties.b": properties(
        b={"allOf": [{"type": "string", "pattern": f".*a.{{{n}}}b"} for n in (40, 41, 42)]}
    ),
}


@pytest.mark.parametrize("where", STATIC)
def test_what_costs_too_much_is_named_without_compiling(where: str) -> None:
    with pytest.raises(SchemaError) as refused:
        parse(json.dumps(STATIC[where]))
    assert refused.value.where.startswith(where)
    assert where in refused.value.message


def test_a_property_may_be_called_as_a_keyword_is() -> None:
    parse(json.dumps(properties(multipleOf={"const": 1}, pattern={"type": "string"})))
    parse(json.dumps({"enum": [{"multipleOf": 10**9}], "multipleOf": 50_000}))


@pytest.mark.parametrize("text", ["", "[", "[1]", '"a"', "[" * 100_000, "1" * 5000])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(SchemaError):
        parse(text)


@pytest.fixture(scope="module")
def trial() -> Any:
    one = Trial(TOKENIZER)
    yield one
    one.close()


@pytest.mark.parametrize("where", TRIED)
def test_the_trial_names_the_part_that_fails(trial: Trial, where: str) -> None:
    with pytest.raises(SchemaError) as refused:
        trial.check(json.dumps(TRIED[where]))
    assert refused.value.where.startswith(where)


FATAL = {
    "stack": chain(1200),
    "processor": {
        "$defs": {f"d{n}": {"type": "integer", "multipleOf": n} for n in (97, 89, 83)},
        "allOf": [{"$ref": f"#/$defs/d{n}"} for n in (97, 89, 83)],
    },
}


@pytest.mark.parametrize("name", FATAL)
def test_what_would_take_the_service_down_ends_the_trial_only(trial: Trial, name: str) -> None:
    with pytest.raises(SchemaError, match="needs more than"):
        trial.check(json.dumps(FATAL[name]))
    trial.check('{"type": "object"}')


def test_a_killed_trial_process_is_started_again(trial: Trial) -> None:
    trial.check('{"type": "object"}')
    process = trial._process
    assert process is not None
    process.kill()
    process.wait()
    trial.check('{"type": "object"}')


def test_the_trial_ends_with_the_service() -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from llama_hub.inference.schema_trial import Trial\n"
        "trial = Trial(Path(sys.argv[1])); trial.check('{}')\n"
        "print(trial._process.pid, flush=True); time.sleep(600)"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", code, str(TOKENIZER)], stdout=subprocess.PIPE, text=True
    )
    with service:
        assert service.stdout is not None
        number = int(service.stdout.readline())
        service.kill()
    for _ in range(3000):
        if not Path(f"/proc/{number}/stat").exists():
            return
        if Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return  # ended; nobody here collects it
        time.sleep(0.01)
    raise AssertionError("the trial process outlived its service")


def compiling(check: Callable[[GrammarCompiler], Any]) -> None:
    async def main() -> None:
        compiler = GrammarCompiler(TOKENIZER, 512)
        try:
            await check(compiler)
        finally:
            await asyncio.to_thread(compiler.close)

    asyncio.run(main())


def test_a_schema_is_tried_once_good_or_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def check(_: Trial, text: str) -> int:
        tried.append(text)
        if "bad" in text:
            raise SchemaError("bad", ("here",))
        return 0

    monkeypatch.setattr(Trial, "check", check)

    async def asked(compiler: GrammarCompiler) -> None:
        for _ in range(3):
            await asyncio.gather(*(compiler.compile('{"type": "object"}') for _ in range(4)))
            with pytest.raises(SchemaError, match="here: bad"):
                await compiler.compile('{"description": "bad"}')
        assert len(tried) == 2
        for number in range(2 * grammar.REMEMBERED):
            await compiler.compile(json.dumps({"const": number}))
        assert len(compiler._known) <= grammar.REMEMBERED

    compiling(asked)


def test_compiled_schemas_have_a_size_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "check", lambda _, text: grammar.REMEMBERED_BYTES // 3)

    async def asked(compiler: GrammarCompiler) -> None:
        for number in range(5):
            await compiler.compile(json.dumps({"const": number}))
        assert list(compiler._known) == [json.dumps({"const": number}) for number in (2, 3, 4)]

    compiling(asked)


def test_a_schema_that_holds_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_hub.inference import schema_trial

    text = json.dumps({"enum": [f"word {number}" for number in range(4000)]})
    one = Trial(TOKENIZER)
    try:
        assert one.check(text) > 0
        # This process, unlike the trial's, may have room in its heap already: any growth counts.
        monkeypatch.setattr(schema_trial, "RESIDENT", -(1 << 40))
        compiler = SchemaCompiler(Tokenizer(TOKENIZER))
        answer = schema_trial._try(compiler, text)
        assert answer["error"].startswith("compiled it takes")
        assert answer["path"] == ("enum",)
    finally:
        one.close()


def test_who_leaves_does_not_end_what_others_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(Trial, "check", lambda _, text: int(go.wait(60)))

    async def asked(compiler: GrammarCompiler) -> None:
        first, second = (
            asyncio.create_task(compiler.compile('{"type": "object"}')) for _ in range(2)
        )
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        go.set()
        assert isinstance(await second, Grammar)

    compiling(asked)


def test_schemas_that_wait_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_hub.errors import NotEnoughError

    go = threading.Event()
    monkeypatch.setattr(Trial, "check", lambda _, text: int(go.wait(60)))

    async def asked(compiler: GrammarCompiler) -> None:
        waiting = [
            asyncio.create_task(compiler.compile(json.dumps({"const": n})))
            for n in range(grammar.WAITING)
        ]
        await asyncio.sleep(0)
        with pytest.raises(NotEnoughError):
            await compiler.compile('{"const": "one more"}')
        go.set()
        await asyncio.gather(*waiting)

    compiling(asked)


def test_a_slow_grammar_holds_nobody_up(
    model: Model, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    whole = Grammar._compute

    def slow(self: Grammar) -> Any:
        assert go.wait(60)
        return whole(self)

    monkeypatch.setattr(Grammar, "_compute", slow)

    async def main() -> None:
        async with serving(model(), dtype="float32") as engine:
            bound = asyncio.create_task(
                ask(engine, prompt(5), "bound", grammar='{"const": 12}', ignore_eos=False)
            )
            for number in range(3):
                free = await ask(engine, prompt(6), f"free-{number}", max_tokens=20)
                assert len(free.tokens) == 20
            assert not bound.done()
            go.set()
            assert (await bound).finish_reason == "stop"

    asyncio.run(main())


def test_an_answer_that_becomes_too_complex_ends_alone(
    model: Model, serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar, "ALLOWANCE", 0.0)
    monkeypatch.setattr(grammar, "PER_TOKEN", 0.0)

    async def main() -> None:
        async with serving(model(), dtype="float32") as engine:
            bound = ask(engine, prompt(5), "bound", grammar='{"type": "object"}', ignore_eos=False)
            free = ask(engine, prompt(6), "free", max_tokens=30)
            failed, answer = await asyncio.gather(bound, free, return_exceptions=True)
            assert isinstance(failed, UsageError)
            assert not isinstance(answer, BaseException)
            assert len(answer.tokens) == 30
            assert (await ask(engine, prompt(5), "after", max_tokens=2)).finish_reason == "length"

    asyncio.run(main())
