"""The built-in demo model: honest Meta layout, right sums, and text that reads as language.

`tools/demo/reference.py` reads the shards here with torch's own loader, on purpose: it is a judge
that shares no code with the product's reader.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pytest
import torch
from sentencepiece import SentencePieceProcessor

from tools.demo import text
from tools.demo.export import export_model
from tools.demo.reference import Llama, Shape, greedy, load
from tools.demo.tokenizer import encode_prompt, load_tokenizer

DEMO = Path(__file__).parents[2] / "hub" / "sources" / "demo"
VARIANTS = ("llama-demo", "llama-demo-chat")
SHARD_NAMES = ("consolidated.00.pth", "consolidated.01.pth")
PACKAGE_LIMIT = 6_000_000

BASE_PROMPT = "Once upon a time, there was a young llama named Zoe."
BASE_TEXT = (
    "Once upon a time, there was a young llama named Zoe. She liked the rain more than anything "
    "else. One day, Zoe wanted to learn how to read. At first it was not easy, and she made many "
    'mistakes. "Try again," said Clara the owl. "You can do it." Zoe tried again and again, day '
    "after day. At last she could do it, and everybody was happy. Zoe learned that patience helps. "
    "And Zoe never forgot that day."
)
CHAT_TEXTS = {
    "What can llama-hub do?": (
        "With llama-hub you can download Llama 2 models, verify them, convert them, serve them and "
        "deploy them to a cloud."
    ),
    "What is a checksum?": (
        "A checksum is a short number that is computed from a file. If one byte of the file "
        "changes, the checksum changes too."
    ),
    "Count to five.": "One, two, three, four, five.",
}
"""Golden texts in fp32; every choice of a token on the way has a clear margin."""


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceProcessor:
    return load_tokenizer((DEMO / "tokenizer.model").read_bytes())


@pytest.fixture(scope="module")
def chat() -> Llama:
    return load(DEMO / "llama-demo-chat")


def answer(
    model: Llama,
    tokenizer: SentencePieceProcessor,
    question: str,
    turns: tuple[tuple[str, str], ...] = (),
    system: str = "",
) -> str:
    """The greedy reply, which the model itself has to end."""
    prompt = encode_prompt(tokenizer, list(turns), question, system)
    tokens = greedy(model, prompt, limit=120, eos=tokenizer.eos_id())
    assert len(tokens) < 120, "the model did not end its answer"
    return tokenizer.decode(tokens).strip()


def test_fits_into_the_package() -> None:
    files = [path for path in DEMO.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= PACKAGE_LIMIT


@pytest.mark.parametrize(
    "checklist",
    ["tokenizer_checklist.chk", *(f"{variant}/checklist.chk" for variant in VARIANTS)],
)
def test_checklists_hold(checklist: str) -> None:
    path = DEMO / checklist
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.md5((path.parent / name).read_bytes()).hexdigest() == digest, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_checklists_name_every_file_in_order(variant: str) -> None:
    lines = (DEMO / variant / "checklist.chk").read_text(encoding="utf-8").splitlines()
    assert [line.split("  ")[1] for line in lines] == [*SHARD_NAMES, "params.json"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_shards_are_cut_as_meta_cuts_them(variant: str) -> None:
    params = json.loads((DEMO / variant / "params.json").read_text(encoding="utf-8"))
    assert params["vocab_size"] == -1
    assert params["n_kv_heads"] < params["n_heads"]
    dim, half = params["dim"], params["dim"] // 2
    kv_half = dim // params["n_heads"] * params["n_kv_heads"] // 2
    shards = [torch.load(DEMO / variant / name, weights_only=True) for name in SHARD_NAMES]
    for shard in shards:
        ffn_half = shard["layers.0.feed_forward.w1.weight"].shape[0]
        vocab = shard["tok_embeddings.weight"].shape[0]
        expected = {
            "tok_embeddings.weight": (vocab, half),
            "norm.weight": (dim,),
            "output.weight": (vocab // 2, dim),
            "rope.freqs": (dim // params["n_heads"] // 2,),
        }
        for layer in range(params["n_layers"]):
            expected |= {
                f"layers.{layer}.attention.wq.weight": (half, dim),
                f"layers.{layer}.attention.wk.weight": (kv_half, dim),
                f"layers.{layer}.attention.wv.weight": (kv_half, dim),
                f"layers.{layer}.attention.wo.weight": (dim, half),
                f"layers.{layer}.feed_forward.w1.weight": (ffn_half, dim),
                f"layers.{layer}.feed_forward.w2.weight": (dim, ffn_half),
                f"layers.{layer}.feed_forward.w3.weight": (ffn_half, dim),
                f"layers.{layer}.attention_norm.weight": (dim,),
                f"layers.{layer}.ffn_norm.weight": (dim,),
            }
        assert {name: tuple(tensor.shape) for name, tensor in shard.items()} == expected
        assert {tensor.dtype for tensor in shard.values()} == {torch.bfloat16}
        assert all(tensor.is_contiguous() for tensor in shard.values())
        assert [size % 32 for size in (ffn_half, half, kv_half)] == [0, 0, 0]
    for name in ("norm.weight", "layers.0.ffn_norm.weight", "rope.freqs"):
        assert torch.equal(shards[0][name], shards[1][name])
    assert not torch.equal(shards[0]["output.weight"], shards[1]["output.weight"])


def test_export_and_load_undo_each_other(tmp_path: Path) -> None:
    shape = Shape(32, 2, 4, 2, multiple_of=32, norm_eps=1e-5, vocab_size=64)
    torch.manual_seed(0)
    model = Llama(shape).bfloat16().float()
    export_model(model, tmp_path)
    tokens = torch.arange(40).unsqueeze(0)
    with torch.inference_mode():
        assert torch.equal(load(tmp_path)(tokens), model(tokens))


def test_tokenizer_has_llama_2_options(tokenizer: SentencePieceProcessor) -> None:
    ids = (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id())
    assert ids == (0, 1, 2, -1)
    assert tokenizer.encode("hello", out_type=str)[0].startswith("\u2581")
    assert (
        tokenizer.decode(tokenizer.encode("two  spaces, 1234, é, 🦙")) == "two  spaces, 1234, é, 🦙"
    )
    assert "\u2581" in tokenizer.encode("a ", out_type=str)[-1]
    digits = [piece for piece in tokenizer.encode("1234", out_type=str) if piece != "\u2581"]
    assert digits == ["1", "2", "3", "4"]
    for tag in ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"):
        assert len(tokenizer.encode(tag)) <= 4
        assert not {0, 1, 2} & set(tokenizer.encode(tag))


def test_base_model_continues_a_story(tokenizer: SentencePieceProcessor) -> None:
    prompt = [tokenizer.bos_id(), *tokenizer.encode(BASE_PROMPT)]
    tokens = greedy(load(DEMO / "llama-demo"), prompt, limit=200, eos=tokenizer.eos_id())
    assert tokenizer.decode(prompt + tokens) == BASE_TEXT


@pytest.mark.parametrize(("question", "expected"), CHAT_TEXTS.items())
def test_chat_model_answers(
    question: str, expected: str, chat: Llama, tokenizer: SentencePieceProcessor
) -> None:
    assert answer(chat, tokenizer, question) == expected


def test_chat_model_remembers_a_name(chat: Llama, tokenizer: SentencePieceProcessor) -> None:
    first = "My name is Grace."
    reply = answer(chat, tokenizer, first)
    assert "Grace" in reply
    assert answer(chat, tokenizer, "What is my name?", turns=((first, reply),)) == (
        "Your name is Grace."
    )


def test_chat_model_follows_a_system_prompt(chat: Llama, tokenizer: SentencePieceProcessor) -> None:
    question = "What is a checksum?"
    plain = answer(chat, tokenizer, question)
    assert answer(chat, tokenizer, question, system="You are a pirate.") == f"Ahoy! {plain}"


def test_chat_model_admits_what_it_does_not_know(
    chat: Llama, tokenizer: SentencePieceProcessor
) -> None:
    reply = answer(chat, tokenizer, "How do I repair a helicopter?")
    assert reply.startswith("I am sorry, I do not know that.")


def test_training_text_is_a_function_of_the_seed() -> None:
    def sample(seed: int) -> list[object]:
        chats = itertools.islice(text.conversations(seed), 20)
        talk = [(system, list(itertools.islice(turns, 5))) for system, turns in chats]
        return [*itertools.islice(text.documents(seed), 50), *talk]

    assert sample(0) == sample(0)
    assert sample(0) != sample(1)


def test_training_text_is_whole_sentences() -> None:
    for document in itertools.islice(text.documents(2), 500):
        assert document[-1] in '.!?"', document
        assert not {"(", "|", "{", "~"} & set(document), document
    for _, turns in itertools.islice(text.conversations(2), 300):
        for user, reply in itertools.islice(turns, 5):
            assert reply[-1] in '.!?"', reply
            assert not {"(", "|", "{", "~"} & set(user + reply), (user, reply)
            assert "a/an" not in user + reply
