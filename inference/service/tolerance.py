"""The tolerance for bodies: what is unknown is ignored and logged once, what is neutral is taken.

One rule for each route and each depth of a body. A field that no model of ``schemas`` knows is
ignored, unless its name stands in ``WISHES``: it would change the answer, so it is refused by
name, except at the value that asks for nothing (``typical_p`` 1, ``num_beams`` 1 …). A field that
a model knows and that cannot be had here (``Refused``) has the same neutral values.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

_NOTHING: tuple[Any, ...] = (None, False, [], "", "none")
# Names that clients and other servers know, and the values at which they change nothing.
WISHES: dict[str, tuple[Any, ...]] = {
    "adapter_id": (),
    "allowed_token_ids": (),
    "bad_words": (),
    "bad_words_ids": (),
    "best_of": (1,),
    "chat_template": (),
    "documents": (),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "ebnf": (),
    "echo": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "grammar": (),
    "guided_choice": (),
    "guided_decoding_backend": ("auto",),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (),
    "json_schema": (),
    "length_penalty": (1,),
    "logits_processors": (),
    "lora_path": (),
    "min_length": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "modalities": (["text"],),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "prediction": (),
    "prompt_logprobs": (),
    "reasoning": ({},),
    "regex": (),
    "return_tokens_as_token_ids": (),
    "skip_special_tokens": (True,),
    "smoothing_factor": (0,),
    "stop_regex": (),
    "structured_outputs": (),
    "tfs": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "top_n_sigma": (0, -1),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "truncation": ("disabled",),
    "typical": (1,),
    "typical_p": (1,),
    "use_beam_search": (),
    "verbosity": ("medium",),
    "watermark": (),
    "xtc_probability": (0,),
}
MAX_NAME = 128  # characters of a field's name
MAX_LOGGED = 256  # names; clients choose them, so that there is no end to them
_logged: set[str] = set()
_log = logging.getLogger(__name__)


def asks_for_nothing(name: str, value: Any) -> bool:
    """Whether the field ``name`` at ``value`` leaves every answer as it is."""
    neutral = WISHES.get(name, ())
    if any(each is True for each in neutral) and value is False:  # on is the rule: off is the wish
        return False
    return any(
        value == each and isinstance(value, bool) is isinstance(each, bool)
        for each in (*_NOTHING, *neutral)
    )


def unmet_wish(body: BaseModel) -> str | None:
    """The path of the first field of ``body`` that no model knows, would change the answer and
    cannot be had; every other unknown field is logged once in the life of the process."""
    for path, name, value in _unknown(body):
        if len(name) > MAX_NAME:
            return path[:MAX_NAME]  # no client's field: nothing harmless is called so
        if name in WISHES and not asks_for_nothing(name, value):
            return path
        if name not in WISHES:
            _note(f"{type(body).__name__}: {path}")
    return None


def _unknown(model: BaseModel, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """(path, name, value) of the fields of ``model``, at any depth, that no model knows."""
    for name, value in (model.model_extra or {}).items():
        yield path + name, name, value
    for name in model.model_fields_set:
        value = getattr(model, name, None)
        if isinstance(value, BaseModel):
            yield from _unknown(value, f"{path}{name}.")
        elif isinstance(value, list) and _holds_models(value):
            for each in value:
                if isinstance(each, BaseModel):
                    yield from _unknown(each, f"{path}{name}[].")


def _holds_models(values: list[Any]) -> bool:
    """Whether there is anything to look into: lists of a hundred thousand token ids are passed."""
    return any(issubclass(kind, BaseModel) for kind in set(map(type, values)))


def _note(where: str) -> None:
    name = where[:100]
    if name not in _logged and len(_logged) < MAX_LOGGED:
        _logged.add(name)
        _log.info("an unknown field is ignored: %r (said once)", name)
