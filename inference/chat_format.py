"""The dialogue format of Llama 2 chat models, as Meta's ``llama/generation.py`` defines it.

Every finished turn is encoded apart, with its own BOS and EOS; the system
message is folded into the first user turn; contents are stripped. The tags have
no ids of their own, so a text that contains one is refused: it could close a
turn or open a system message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llama_hub.errors import UsageError
from llama_hub.inference.tokenizer import Tokenizer

INSTRUCTION = ("[INST]", "[/INST]")
SYSTEM = ("<<SYS>>\n", "\n<</SYS>>\n\n")
TAGS = (*INSTRUCTION, "<<SYS>>", "<</SYS>>")


@dataclass(frozen=True)
class Message:
    """One entry of a dialogue; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


def encode_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], *, continued: bool = False
) -> list[int]:
    """Ids of a dialogue that ends with a user message; ``UsageError`` if it is not one.

    ``continued``: it ends with the beginning of an answer instead, which is left open, without a
    space at its end: the space belongs to the next token.
    """
    turns = _fold_system(messages)
    opening = _opening(turns.pop()) if continued else ""
    _check_order(turns)
    ids: list[int] = []
    for user, answer in zip(turns[0:-1:2], turns[1::2], strict=True):
        text = f"{_instruction(user)} {answer.content.strip()} "
        ids += tokenizer.encode(text, bos=True, eos=True)
    return ids + tokenizer.encode(_instruction(turns[-1]) + opening, bos=True)


def _opening(answer: Message) -> str:
    text = answer.content.strip()
    return f" {text}" if text else ""


def normalised(messages: Sequence[Message]) -> list[Message]:
    """``messages`` in the order that Llama 2 was trained on.

    System texts, wherever they stand, make the one at the start; neighbours of one role are
    joined, each with a blank line between; an answer that nobody asked for gets an empty question.
    """
    system = [message.content for message in messages if message.role == "system"]
    turns: list[Message] = []
    for message in messages:
        if message.role == "system":
            continue
        if turns and turns[-1].role == message.role:
            joined = _paragraphs([turns[-1].content, message.content])
            turns[-1] = replace(message, content=joined)
        else:
            turns.append(message)
    if len(turns) > 1 and turns[0].role == "assistant":
        turns.insert(0, Message("user", ""))
    return [Message("system", _paragraphs(system)), *turns] if system else turns


def _paragraphs(texts: Sequence[str]) -> str:
    return "\n\n".join(text for text in texts if text)


def _instruction(user: Message) -> str:
    begin, end = INSTRUCTION
    return f"{begin} {user.content.strip()} {end}"


def _fold_system(messages: Sequence[Message]) -> list[Message]:
    for message in messages:
        _check_tags(message)
    if not messages or messages[0].role != "system":
        return list(messages)
    if len(messages) < 2 or messages[1].role != "user":
        raise UsageError("a system message must be followed by a user message")
    begin, end = SYSTEM
    system, user = messages[:2]
    return [replace(user, content=begin + system.content + end + user.content), *messages[2:]]


def _check_tags(message: Message) -> None:
    found = [tag for tag in TAGS if tag in message.content]
    if found:
        raise UsageError(
            f"the {message.role} message contains {found[0]}, which is a tag of the chat format",
            hint="remove the tag, or use /v1/completions with a prompt of your own format",
        )


def _check_order(turns: Sequence[Message]) -> None:
    if not turns:
        raise UsageError("there are no messages")
    for position, message in enumerate(turns):
        wanted = ("user", "assistant")[position % 2]
        if message.role != wanted:
            raise UsageError(
                f"message {position + 1} (after any system message) is from {message.role!r}, "
                f"not {wanted!r}: roles are an optional 'system' at the start, then 'user' and "
                "'assistant' in turn"
            )
    if turns[-1].role != "user":
        raise UsageError("the last message must be from 'user'")
