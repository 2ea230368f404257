"""A SentencePiece tokenizer with Llama 2's options, trained on the demo's own text."""

from __future__ import annotations

import io
import string
from collections.abc import Iterable

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

VOCAB_SIZE = 1280


def train_tokenizer(lines: Iterable[str]) -> bytes:
    """The bytes of a `tokenizer.model` whose pieces come from `lines` of text."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        normalization_rule_name="identity",
        required_chars=string.ascii_letters + string.digits + string.punctuation,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def load_tokenizer(model: bytes) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_proto=model)


def encode_document(tokenizer: SentencePieceProcessor, text: str) -> list[int]:
    """BOS, the text, EOS."""
    return [tokenizer.bos_id(), *tokenizer.encode(text), tokenizer.eos_id()]


def encode_turn(
    tokenizer: SentencePieceProcessor, user: str, answer: str
) -> tuple[list[int], list[int]]:
    """One finished turn in Llama 2's chat format: (prompt ids with BOS, answer ids with EOS).

    Encoded as one string, as Meta does; the prompt's ids are its first ones because pieces never
    cross a space.
    """
    prompt = [tokenizer.bos_id(), *tokenizer.encode(f"[INST] {user} [/INST]")]
    whole = [tokenizer.bos_id(), *tokenizer.encode(f"[INST] {user} [/INST] {answer} ")]
    assert whole[: len(prompt)] == prompt, user
    return prompt, [*whole[len(prompt) :], tokenizer.eos_id()]


def encode_prompt(
    tokenizer: SentencePieceProcessor, turns: list[tuple[str, str]], user: str, system: str = ""
) -> list[int]:
    """The ids that ask for the next answer: finished (user, answer) turns, then `user`."""
    questions = [*(question for question, _ in turns), user]
    if system:
        questions[0] = f"<<SYS>>\n{system}\n<</SYS>>\n\n{questions[0]}"
    ids: list[int] = []
    for question, (_, answer) in zip(questions, turns, strict=False):
        for part in encode_turn(tokenizer, question, answer):
            ids += part
    return [*ids, tokenizer.bos_id(), *tokenizer.encode(f"[INST] {questions[-1]} [/INST]")]
