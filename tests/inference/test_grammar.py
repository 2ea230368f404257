"""Answers under a JSON schema are valid under it, whatever the model would rather say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llama_hub.errors import UsageError
from llama_hub.inference.tokenizer import Tokenizer
from tests.inference.conftest import Serving
from tests.support.hf_models import Answer, ask, prompt

Model = Callable[..., Path]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "legs": {"type": "integer", "minimum": 2, "maximum": 8},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "legs", "kind", "tags"],
    "additionalProperties": False,
}


def run(model: Model, serving: Serving, schema: Any, **sampling: Any) -> list[Answer]:
    async def main() -> list[Answer]:
        async with serving(model(), dtype="float32", step_tokens=30) as engine:
            known = {"grammar": json.dumps(schema), "ignore_eos": False, "max_tokens": 120}
            free = ask(engine, prompt(9), "free", max_tokens=40, temperature=1.0)
            bound = [
                ask(engine, prompt(20, n), f"{n}", **{**known, "seed": n, **sampling})
                for n in range(4)
            ]
            return (await asyncio.gather(free, *bound))[1:]

    return asyncio.run(main())


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_are_valid(model: Model, serving: Serving, temperature: float) -> None:
    tokenizer = Tokenizer(model() / "tokenizer.model")
    for answer in run(model, serving, SCHEMA, temperature=temperature):
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(tokenizer.decode(answer.tokens)), SCHEMA)


def test_min_tokens_cannot_break_a_finished_answer(model: Model, serving: Serving) -> None:
    tokenizer = Tokenizer(model() / "tokenizer.model")
    for answer in run(model, serving, {"const": 12}, min_tokens=50):
        assert tokenizer.decode(answer.tokens).strip() == "12"
        assert answer.finish_reason == "stop"


@pytest.mark.parametrize("schema", ["{", '{"type": "nonsense"}', '{"$ref": "#/nowhere"}'])
def test_an_unusable_schema_is_refused_at_once(model: Model, serving: Serving, schema: str) -> None:
    async def main() -> None:
        async with serving(model(), dtype="float32") as engine:
            with pytest.raises(UsageError, match="JSON schema"):
                await ask(engine, prompt(5), grammar=schema)
            assert (await ask(engine, prompt(5), max_tokens=2)).finish_reason == "length"

    asyncio.run(main())
