"""Meta's signed URL: what people paste, repaired; what CloudFront's policy in it says, read."""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit, urlunsplit

from llama_hub.errors import AccessError, UsageError

HOST = re.compile(r"([a-z0-9-]+\.)?llamameta\.net")
OTHER_FAMILIES = {
    "llama3": "Llama 3",
    "llama-3": "Llama 3",
    "llama4": "Llama 4",
    "llama-4": "Llama 4",
    "codellama": "Code Llama",
    "code-llama": "Code Llama",
}
FORM = (
    "request a URL at https://www.llama.com/llama-downloads/ (the Llama 2 form); it comes by e-mail"
)
COPY = "copy the whole URL from Meta's e-mail, from https://download to the end, and quote it"


@dataclass(frozen=True)
class SignedUrl:
    """A checked URL; ``*`` in its path stands for the file. Never shown: ``repr`` hides it."""

    url: str = field(repr=False)
    host: str
    resource: str  # scope of the policy, such as https://download.llamameta.net/*
    expires: datetime | None  # UTC
    request_id: str | None  # Download-Request-ID, which Meta's form gave

    def for_file(self, path: str) -> str:
        """The URL of one file."""
        parts = urlsplit(self.url)
        below = parts.path.replace("*", quote(path), 1)
        return urlunsplit((parts.scheme, parts.netloc, below, parts.query, ""))

    def require_valid(self, now: datetime | None = None) -> None:
        """``AccessError`` once it has expired."""
        now = now or datetime.now(UTC)
        if self.expires is not None and self.expires <= now:
            raise AccessError(
                f"Meta's URL expired at {self.expires:%Y-%m-%d %H:%M} UTC "
                f"({_ago((now - self.expires).total_seconds())} ago)",
                hint=FORM,
            )


def looks_signed(text: str) -> bool:
    """Whether this is meant to be Meta's URL, rather than a mirror's."""
    return bool(re.search(r"llamameta\.net|[?&;]Policy=|l\.facebook\.com|Key-Pair-Id=", text))


def parse(text: str, allow_hosts: tuple[str, ...] = ()) -> SignedUrl:
    """The URL in what was pasted; ``UsageError`` says what it is instead."""
    parts = _split(_mend(text))
    _refuse_what_it_is_not(parts, text)
    host = (parts.hostname or "").lower()
    if not HOST.fullmatch(host) and host not in allow_hosts:
        raise UsageError(
            f"{host} is not a host of Meta's downloads (download.llamameta.net and its like)",
            hint=f"if you know it and trust it, add --allow-host {host}",
        )
    if parts.scheme != "https" and host not in allow_hosts:
        raise UsageError("Meta's URL begins with https://", hint=COPY)
    if "*" not in parts.path:
        raise UsageError("this is the URL of one file, not Meta's URL with a * in it", hint=COPY)
    query = parse_qs(parts.query)
    missing = [key for key in ("Policy", "Signature", "Key-Pair-Id") if key not in query]
    if missing:
        raise UsageError(f"the URL was cut: it has no {' and no '.join(missing)}", hint=COPY)
    resource, expires = _read_policy(query["Policy"][0])
    _check_scope(resource, host)
    request_id = query.get("Download-Request-ID", [""])[0]
    return SignedUrl(
        urlunsplit(parts), host, resource, expires, request_id if request_id.isdigit() else None
    )


def _mend(text: str) -> str:
    """Undo what mail programs, terminals and people do to a URL."""
    text = re.sub(r"\s+|[\u200b\ufeff\u00ad]", "", text).strip("\"'<>`“”‘’()[],")
    while "&amp;" in text.lower() or "&#" in text:
        text = html.unescape(text)
    text = text.replace("\\*", "*").replace("\\?", "?").replace("\\&", "&").replace("\\=", "=")
    parts = _split(text)
    if (parts.hostname or "").endswith("facebook.com") and "u" in parse_qs(parts.query):
        return _mend(parse_qs(parts.query)["u"][0])
    if (parts.hostname or "").endswith("safelinks.protection.outlook.com"):
        return _mend(parse_qs(parts.query).get("url", [""])[0])
    path = parts.path.replace("%2A", "*").replace("%2a", "*")
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return urlsplit("")
    return parts


def _refuse_what_it_is_not(parts: SplitResult, text: str) -> None:
    host = (parts.hostname or "").lower()
    if not parts.scheme and re.fullmatch(r"\s*\S+@\S+\.\S+\s*", text):
        raise UsageError("that is an e-mail address, not the URL that Meta sends to it", hint=COPY)
    if host.endswith(("huggingface.co", "hf.co")):
        raise UsageError(
            "that is a page of Hugging Face, not Meta's signed URL",
            hint="download from there with --source huggingface",
        )
    if host.endswith(("facebook.com", "llama.com", "ai.meta.com")):
        raise UsageError("that is a page of Meta's, not the signed URL", hint=COPY)
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError("that is not a URL", hint=COPY)
    words = f"{host.split('.')[0]}/{unquote(parts.path)}".lower()
    for mark, family in OTHER_FAMILIES.items():
        if mark in words:
            raise UsageError(f"that URL is for {family}, not for Llama 2", hint=FORM)


# OSError: a time that the C library cannot represent; RecursionError: lists in lists in lists.
_UNREADABLE = (
    binascii.Error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError,
    RecursionError,
)  # fmt: skip


def _read_policy(policy: str) -> tuple[str, datetime | None]:
    """Scope and end of a CloudFront policy: base64 with three characters replaced."""
    try:
        plain = policy.translate(str.maketrans("-_~", "+=/"))
        document = json.loads(base64.b64decode(plain + "=" * (-len(plain.rstrip("=")) % 4)))
        statement = document["Statement"][0]
        resource = str(statement["Resource"])
        end = statement.get("Condition", {}).get("DateLessThan", {}).get("AWS:EpochTime")
        return resource, datetime.fromtimestamp(int(end), UTC) if end is not None else None
    except _UNREADABLE as error:
        raise UsageError(
            "the policy in the URL cannot be read: characters were lost or changed", hint=COPY
        ) from error


def _check_scope(resource: str, host: str) -> None:
    scope = re.sub(r":\d+$", "", resource.split("://", 1)[-1].split("/", 1)[0].lower())
    if scope not in (host, "*", ""):
        raise UsageError(
            f"the URL's signature is for {scope}, but its host is {host}: it would be refused",
            hint=COPY,
        )
    for mark, family in OTHER_FAMILIES.items():
        if mark in resource.lower():
            raise UsageError(f"that URL's signature is for {family}, not for Llama 2", hint=FORM)


def _ago(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:.0f} hours"
