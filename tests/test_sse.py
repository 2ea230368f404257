"""Events come out whole wherever the network has cut the bytes."""

from __future__ import annotations

import pytest

from llama_hub.sse import documents, whole_lines

STREAM = (
    'data: {"a": "grün"}\r\n\r\n: comment\ndata:{"b": 2}\n\nevent: x\ndata: [DONE]\n\n'.encode()
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_documents_are_whole_wherever_bytes_are_cut(size: int) -> None:
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert list(documents(pieces)) == [{"a": "grün"}, {"b": 2}]


def test_a_last_event_without_its_line_end_counts() -> None:
    assert list(documents([b'data: {"a"', b": 1}"])) == [{"a": 1}]
    assert list(whole_lines([b"a\n\nb"])) == [b"a", b"", b"b"]
    assert list(whole_lines([])) == []


def test_an_event_that_is_no_json_is_an_error() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        list(documents([b"data: oops\n"]))
