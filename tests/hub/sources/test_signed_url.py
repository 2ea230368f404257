"""What people paste instead of Meta's URL, and what the URL says before anything is asked."""

from __future__ import annotations

import base64
import time
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_hub.errors import AccessError, UsageError
from llama_hub.hub.sources.signed_url import looks_signed, parse
from tests.support.signed_urls import HOUR, signed

GOOD = signed()


def test_host_scope_and_expiry_are_read_from_the_policy() -> None:
    url = parse(signed(valid_for=2 * HOUR))
    assert url.host == "download.llamameta.net"
    assert url.resource == "https://download.llamameta.net/*"
    assert url.expires is not None
    assert abs(url.expires.timestamp() - time.time() - 2 * HOUR) < 60
    assert url.request_id == "123456789"


def test_the_star_becomes_the_file() -> None:
    made = parse(GOOD).for_file("llama-2-7b/consolidated.00.pth")
    assert made == GOOD.replace("*", "llama-2-7b/consolidated.00.pth", 1)


def test_an_expired_url_is_refused_and_says_since_when() -> None:
    url = parse(signed(valid_for=-3 * HOUR))
    with pytest.raises(AccessError, match=r"expired at .* UTC \(3 hours ago\)"):
        url.require_valid()
    assert url.expires is not None
    url.require_valid(datetime.fromtimestamp(url.expires.timestamp() - 1, UTC))


@pytest.mark.parametrize(
    "pasted",
    [
        f"  {GOOD}\n",
        f'"{GOOD}"',
        f"'{GOOD}'",
        f"<{GOOD}>",
        f"“{GOOD}”",
        GOOD.replace("&", "&amp;"),
        GOOD.replace("&", "&amp;amp;"),
        GOOD.replace("*", "%2A"),
        GOOD.replace("*", "\\*").replace("?", "\\?").replace("&", "\\&"),
        "\n".join(GOOD[at : at + 60] for at in range(0, len(GOOD), 60)),
        GOOD[:80] + "\r\n  " + GOOD[80:],
        f"https://l.facebook.com/l.php?u={quote(GOOD, safe='')}&h=AT0xyz",
        f"https://nam02.safelinks.protection.outlook.com/?url={quote(GOOD, safe='')}&data=x",
    ],
)
def test_what_mail_programs_and_terminals_do_is_undone(pasted: str) -> None:
    assert parse(pasted).for_file("LICENSE") == GOOD.replace("*", "LICENSE", 1)


@given(st.lists(st.integers(0, len(GOOD)), max_size=6), st.sampled_from("\n\r\t "))
def test_line_breaks_anywhere_are_undone(places: list[int], blank: str) -> None:
    pasted = GOOD
    for place in sorted(places, reverse=True):
        pasted = pasted[:place] + blank + pasted[place:]
    assert parse(pasted).url == GOOD


@pytest.mark.parametrize(
    ("pasted", "message"),
    [
        ("ada@example.org", "e-mail address"),
        ("https://huggingface.co/meta-llama/Llama-2-7b", "Hugging Face"),
        ("https://hf.co/settings", "Hugging Face"),
        ("https://www.llama.com/llama-downloads/", "page of Meta's"),
        (signed("https://llama3-1.llamameta.net"), "Llama 3"),
        (signed(resource="https://download.llamameta.net/llama-3/*"), "Llama 3"),
        (GOOD.replace("*", "codellama/*"), "Code Llama"),
        ("hello", "not a URL"),
        ("", "not a URL"),
        ("http://[", "not a URL"),
        (GOOD.replace("https:", "http:"), "begins with https"),
        (GOOD.replace("*", "LICENSE"), r"URL of one file"),
        (GOOD.partition("&Signature")[0], "was cut: it has no Signature and no Key-Pair-Id"),
        (GOOD.replace("Policy=", "Policy=AA"), "policy in the URL cannot be read"),
        (GOOD.replace("download.", "download2.", 1), "signature is for download.llamameta.net"),
        (GOOD.replace("llamameta.net/*?", "llamameta.net.evil.example/*?"), "not a host of Meta's"),
        (GOOD.replace("//download", "//evil.example/download", 1), "not a host of Meta's"),
        (GOOD.replace("//download", "//download.llamameta.net@evil.example", 1), "not a host"),
    ],
)
def test_what_is_not_the_url_is_named(pasted: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(pasted)
    assert "Signature=" not in caught.value.message + caught.value.hint


def test_other_hosts_have_to_be_allowed_by_name() -> None:
    url = signed("https://mirror.example")
    with pytest.raises(UsageError, match="mirror.example is not a host") as caught:
        parse(url)
    assert "--allow-host mirror.example" in caught.value.hint
    assert parse(url, ("mirror.example",)).host == "mirror.example"


@given(st.text())
def test_any_text_is_a_url_or_a_usage_error(text: str) -> None:
    try:
        parse(text)
    except UsageError:
        return


@given(st.binary(max_size=200))
def test_any_policy_is_read_or_refused(junk: bytes) -> None:
    encoded = base64.b64encode(junk).decode().translate(str.maketrans("+=/", "-_~"))
    url = f"https://download.llamameta.net/*?Policy=x{encoded}&Signature=s&Key-Pair-Id=k"
    with pytest.raises(UsageError, match="policy in the URL cannot be read"):
        parse(url)


@pytest.mark.parametrize(
    "document",
    [
        b"[" * 100_000,
        b'{"Statement": [{"Resource": "*", "Condition": []}]}',
        b'{"Statement": {"0": 1}}',
        *(
            b'{"Statement":[{"Resource":"*","Condition":{"DateLessThan":{"AWS:EpochTime":%s}}}]}'
            % time
            for time in (b"1e400", b"99999999999999999", b"-1e18", b"NaN", b"[]", b"true" * 2)
        ),
    ],
    ids=lambda value: repr(value)[-40:],
)
def test_a_policy_of_any_content_is_wrong_usage(document: bytes) -> None:
    policy = base64.b64encode(document).decode().translate(str.maketrans("+=/", "-_~"))
    url = f"https://download.llamameta.net/*?Policy={policy}&Signature=s&Key-Pair-Id=k"
    with pytest.raises(UsageError, match="cannot be read"):
        parse(url)


def test_the_url_is_not_in_its_own_description() -> None:
    assert "Signature" not in repr(parse(GOOD))


def test_a_mirror_is_told_from_a_signed_url() -> None:
    assert looks_signed(GOOD)
    assert not looks_signed("https://mirror.example/llama")
    assert not looks_signed("/data/llama")
