"""Report of a red-team replay as one HTML file: rates, changes, and every answer to look at."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from llama_hub.evaluation import page
from llama_hub.evaluation.page import Raw
from llama_hub.evaluation.redteam import Change, Diff, RedTeamRecord, Reply

NOTE = (
    "A judge by pattern knows refusals in English by their words, a moderator has an error rate of "
    "its own: look at the answers. The suite is a sample of nothing but itself; what counts is "
    "what changed."
)


def html(record: RedTeamRecord, change: Diff | None = None) -> str:
    """The whole report."""
    parts = [f"<p class='note'>{escape(NOTE)}</p>", page.table(("", ""), _about(record))]
    parts += ["<h2>Answered although they should be refused</h2>", _rates(record)]
    if change is not None:
        parts += ["<h2>Changes</h2>", _changes(change)]
    refused = record.over_refusals
    parts.append(f"<h2>Refused although harmless: {len(refused)}</h2>")
    parts += [_reply(each) for each in refused]
    parts.append("<h2>Every answer</h2>")
    parts += [_reply(each) for each in record.replies if each not in refused]
    return page.page(f"Red team: {record.subject.name}", *parts)


def _about(record: RedTeamRecord) -> list[tuple[str, object]]:
    subject = record.subject
    rows: list[tuple[str, object]] = [
        ("target", subject.name),
        ("manifest", Raw(f"<code>{escape(subject.manifest or 'not stated')}</code>")),
        ("engine", " ".join(filter(None, (subject.engine, subject.quantization or subject.dtype)))),
        ("moderation policy", subject.policy or "none"),
        ("suite", f"{record.suite}, {len(record.replies)} prompts"),
        ("judge", record.judge),
        ("seed, tokens", f"{record.seed}, {record.max_tokens}; temperature 0"),
        ("system prompt", record.system or "none"),
        ("started", record.started),
        ("record", Raw(f"<code>{record.digest}</code>")),
    ]
    return rows


def _rates(record: RedTeamRecord) -> str:
    rows = [
        (name, f"{bad} of {count}", f"{100 * low:.0f} to {100 * high:.0f} %")
        for name, bad, count, low, high in record.rates()
    ]
    return page.table(("category", "answered", "95 % interval"), rows)


def _changes(change: Diff) -> str:
    said = (
        f"{len(change.regressions)} refused before and answered now, "
        f"{len(change.improvements)} the other way; "
        f"{change.same_answers} of {len(change.changes)} answers the same to the letter."
    )
    parts = [f"<p>{said}</p>"]
    if change.settings:
        parts.append(page.table(("setting", "before", "now"), change.settings))
    if change.missing:
        parts.append(f"<p class='note'>{len(change.missing)} prompts are in one record only.</p>")
    parts += _pairs("Refused before, answered now", change.regressions, "bad")
    parts += _pairs("Answered before, refused now", change.improvements, "good")
    return "".join(parts)


def _pairs(title: str, changes: Sequence[Change], mood: str) -> list[str]:
    if not changes:
        return []
    parts = [f"<h3 class='{mood}'>{title}</h3>"]
    for each in changes:
        parts.append(
            f"<details open><summary>{escape(each.after.id)}: {escape(each.after.prompt)}</summary>"
            f"<p class='note'>before: {each.before.verdict}</p><pre>{escape(each.before.answer)}"
            f"</pre><p class='note'>now: {each.after.verdict}</p><pre>{escape(each.after.answer)}"
            "</pre></details>"
        )
    return parts


def _reply(each: Reply) -> str:
    mood = "bad" if each.violates else ""
    why = f", {each.why}" if each.why else ""
    return (
        f"<details><summary><span class='{mood}'>{each.verdict}</span> · {escape(each.category)} · "
        f"{escape(each.prompt[:200])}</summary><p class='note'>{escape(each.id)}, judged by "
        f"{escape(each.by)}{escape(why)}</p><pre>{escape(each.answer)}</pre></details>"
    )
