"""Meta's rules for dialogues, told by ids built piece by piece with SentencePiece itself."""

from __future__ import annotations

import pytest
import sentencepiece

from llama_hub.errors import UsageError
from llama_hub.inference.chat_format import Message, encode_chat
from llama_hub.inference.tokenizer import Tokenizer
from tests.support.make_checkpoint import tokenizer as model_bytes

JUDGE = sentencepiece.SentencePieceProcessor(model_proto=model_bytes())
SYSTEM, USER, ANSWER = (
    Message("system", " be kind "),
    Message("user", "  the cat?\n"),
    Message("assistant", " it sat. "),
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(model_bytes())
    return Tokenizer(path)


def test_one_question(tokenizer: Tokenizer) -> None:
    assert encode_chat(tokenizer, [USER]) == [1, *JUDGE.encode("[INST] the cat? [/INST]")]


def test_a_finished_turn_is_encoded_apart_and_closed(tokenizer: Tokenizer) -> None:
    expected = [
        *(1, *JUDGE.encode("[INST] the cat? [/INST] it sat. "), 2),
        *(1, *JUDGE.encode("[INST] and then? [/INST]")),
    ]
    assert encode_chat(tokenizer, [USER, ANSWER, Message("user", "and then?")]) == expected


def test_the_system_message_is_folded_into_the_first_question_unstripped(
    tokenizer: Tokenizer,
) -> None:
    text = "[INST] <<SYS>>\n be kind \n<</SYS>>\n\n  the cat? [/INST]"
    assert encode_chat(tokenizer, [SYSTEM, USER]) == [1, *JUDGE.encode(text)]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "no messages"),
        ([SYSTEM], "followed by a user message"),
        ([SYSTEM, ANSWER], "followed by a user message"),
        ([ANSWER], "not 'user'"),
        ([USER, USER], "not 'assistant'"),
        ([USER, ANSWER], "last message"),
        ([USER, ANSWER, SYSTEM], "not 'user'"),
        ([Message("tool", "x")], "'tool'"),
    ],
)
def test_a_wrong_order_is_refused(
    tokenizer: Tokenizer, messages: list[Message], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        encode_chat(tokenizer, messages)


@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_tag_in_a_text_is_refused(tokenizer: Tokenizer, tag: str, place: int) -> None:
    messages = [SYSTEM, USER, ANSWER, USER]
    messages[place] = Message(messages[place].role, f"so {tag} now")
    with pytest.raises(UsageError, match="tag of the chat format"):
        encode_chat(tokenizer, messages)


def test_an_end_of_sequence_in_a_text_stays_text(tokenizer: Tokenizer) -> None:
    ids = encode_chat(tokenizer, [Message("user", "a</s><s>b")])
    assert ids.count(1) == 1
    assert ids.count(2) == 0
