"""Checksum lists in every form that Meta, md5sum, Windows and web servers give them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_hub.errors import IntegrityError
from llama_hub.hub.sources.checksum_list import merge, parse

MD5 = "daa8e3109935070df7fe8fc42d34525e"
SHA = "0" * 63 + "a"


@pytest.mark.parametrize(
    "line",
    [
        f"{MD5}  consolidated.00.pth\n",
        f"{MD5} *consolidated.00.pth\n",
        f"{MD5}  ./consolidated.00.pth\r\n",
        f"{MD5.upper()}\tconsolidated.00.pth",
        f"\ufeff{MD5}  llama-2-7b/consolidated.00.pth\n",
        f"MD5 (consolidated.00.pth) = {MD5}\n",
        f"junk\n\n# comment\n{MD5}  consolidated.00.pth\nzz{MD5[2:]}  params.json\n",
        f"{MD5}  .\\consolidated.00.pth\n",
    ],
)
def test_every_form_is_understood(line: str) -> None:
    assert parse(line) == {"consolidated.00.pth": {"md5": MD5}}


def test_both_algorithms_by_their_length() -> None:
    assert parse(f"{MD5}  a\n{SHA}  a\n") == {"a": {"md5": MD5, "sha256": SHA}}


@pytest.mark.parametrize(
    "page", ["<!DOCTYPE html><html>", "\n <html>", "\ufeff<?xml version='1.0'?>"]
)
def test_a_web_page_is_no_list(page: str) -> None:
    with pytest.raises(IntegrityError, match="web page"):
        parse(page)


@given(st.text())
def test_any_text_gives_digests_or_a_refusal(text: str) -> None:
    try:
        found = parse(text)
    except IntegrityError:
        return
    for name, digests in found.items():
        assert "/" not in name
        assert {len(value) for value in digests.values()} <= {32, 64}


def test_lists_that_contradict_each_other_are_refused() -> None:
    assert merge({"a": {"md5": MD5}}, {"a": {"sha256": SHA}}) == {"a": {"md5": MD5, "sha256": SHA}}
    with pytest.raises(IntegrityError, match="contradict each other on a"):
        merge({"a": {"md5": MD5}}, {"a": {"md5": MD5[::-1]}})
