"""Phrases in a language model's answer, however it lists them."""

import json
import re

_THINKING = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_BULLET = re.compile(r"^\s*(?:[-*\u2022\u2013]|\d{1,3}[.)])\s*(?=\S)")
_FENCE = re.compile(r"```\w*\n?|```")
_QUOTES = " \"'`\u201c\u201d"
#: Lines without bullets that are longer than this are prose, not a list.
_LONGEST_BARE_LINE = 60


def phrases_in(answer: str) -> tuple[str, ...]:
    """Read the phrases of an answer.

    Understood are lines with bullets or numbers (whatever stands between them is left out), a JSON list of strings,
    two or more short lines, and three or more short parts between commas. Prose, a refusal or silence gives nothing.

    Returns:
        Phrases in order, without bullets, quotes, bold marks and final full stops, none twice (in any case).
    """
    text = _FENCE.sub("", _THINKING.sub("", answer)).strip()
    cleaned = (_cleaned(part) for part in _parts(text))
    by_key = {phrase.casefold(): phrase for phrase in reversed([phrase for phrase in cleaned if phrase])}
    return tuple(reversed(by_key.values()))


def _parts(text: str) -> list[str]:
    listed = _json_list(text)
    if listed is not None:
        return listed
    lines = [line for line in text.splitlines() if line.strip()]
    bulleted = [_BULLET.sub("", line) for line in lines if _BULLET.match(line)]
    if bulleted:
        return bulleted
    if len(lines) > 1 and all(len(line) <= _LONGEST_BARE_LINE for line in lines):
        return lines
    parts = text.split(",") if len(lines) == 1 else []
    return parts if len(parts) > 2 and all(len(part) <= _LONGEST_BARE_LINE for part in parts) else []


def _json_list(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, list) and all(isinstance(item, str) for item in found) else None


def _cleaned(phrase: str) -> str:
    without_marks = phrase.replace("**", "").replace("__", "")
    return " ".join(without_marks.split()).lstrip(_QUOTES + "#").rstrip(_QUOTES + ".;,:")
