"""config.pbtxt as text: read what is needed from it, and change single fields without touching the rest.

Which version of a model is served is said by its `version_policy`: salf writes exactly one number there, and replacing
config.pbtxt is the moment in which a new version takes over.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from salf_contract.errors import ConfigError

CONFIG_FILE = "config.pbtxt"
#: In a version directory: the settings that this version was published with, without any version's document.
VERSION_CONFIG_FILE = "serving.pbtxt"
_SEAL = "# sha256 of all that follows: "
_TOKEN = re.compile(
    r"""\s+|(?P<comment>\#[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|(?P<mark>[{}\[\]<>:,;])|(?P<word>[^\s{}\[\]<>:,;"'#]+)"""
)
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_CLOSING = {"{": "}", "<": ">", "[": "]"}


@dataclass(frozen=True)
class ConfigField:
    """One field of a message in protobuf's text format.

    Attributes:
        name: of the field.
        values: a string for each scalar (strings unescaped), the fields of each message; a list gives several.
        start: where it begins in the text.
        end: where it ends.
    """

    name: str
    values: "tuple[str | tuple[ConfigField, ...], ...]"
    start: int
    end: int

    @property
    def messages(self) -> "tuple[tuple[ConfigField, ...], ...]":
        """Those of its values that are messages."""
        return tuple(value for value in self.values if not isinstance(value, str))


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def parse_config(text: str) -> tuple[ConfigField, ...]:
    """The top-level fields of a config.pbtxt, in its order.

    Raises:
        ConfigError: the text is no protobuf text format.
    """
    tokens = list(_tokens(text))
    fields, position = _fields(tokens, 0, closing=None)
    if position != len(tokens):
        raise _unexpected(tokens, position)
    return fields


def scalar(message: Sequence[ConfigField], name: str) -> str | None:
    """The last value of a scalar field of a message (or of the whole config); None if it is not there."""
    found = [value for field in message if field.name == name for value in field.values if isinstance(value, str)]
    return found[-1] if found else None


def parameters_in(text: str) -> dict[str, str]:
    """The `parameters` of a config.pbtxt: key -> string value.

    Raises:
        ConfigError: the text is no protobuf text format.
    """
    found: dict[str, str] = {}
    for field in parse_config(text):
        if field.name != "parameters":
            continue
        for message in field.messages:
            key = scalar(message, "key")
            values = [inner for part in message if part.name == "value" for inner in part.messages]
            found[key or ""] = scalar(values[-1], "string_value") or "" if values else ""
    return found


def served_versions(text: str) -> tuple[int, ...] | None:
    """Version numbers that config.pbtxt names; None if it leaves the choice to Triton (`latest`, `all` or nothing).

    Raises:
        ConfigError: the text is no protobuf text format, or a version is no number.
    """
    for field in parse_config(text):
        for message in field.messages if field.name == "version_policy" else ():
            for policy in message:
                if policy.name == "specific":
                    numbers = [
                        value
                        for inner in policy.messages
                        for part in inner
                        if part.name == "versions"
                        for value in part.values
                    ]
                    return tuple(sorted(_version(number) for number in numbers))
    return None


def with_served_version(text: str, version: int) -> str:
    """The same config.pbtxt, serving this version and no other.

    Raises:
        ConfigError: the text is no protobuf text format.
    """
    return with_field(text, "version_policy", f"version_policy {{ specific {{ versions: [ {version} ] }} }}")


def with_field(text: str, name: str, line: str | None) -> str:
    """The same config.pbtxt with one top-level field replaced, added at the end, or (None) removed.

    Raises:
        ConfigError: the text is no protobuf text format.
    """
    spans = [(field.start, field.end) for field in parse_config(text) if field.name == name]
    return _replaced(text, spans, line)


def with_parameter(text: str, key: str, value: str | None) -> str:
    """The same config.pbtxt with one parameter replaced, added at the end, or (None) removed.

    Raises:
        ConfigError: the text is no protobuf text format, or holds the parameter in a list with others.
    """
    spans = []
    for field in parse_config(text):
        keys = [scalar(message, "key") for message in field.messages] if field.name == "parameters" else []
        if key in keys:
            if len(keys) > 1:
                raise ConfigError(f"{CONFIG_FILE} lists parameter {key!r} with others; give each a line of its own")
            spans.append((field.start, field.end))
    line = (
        f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}" if value is not None else None
    )
    return _replaced(text, spans, line)


def sealed(text: str) -> str:
    """The same config.pbtxt with the hash of its text in the first line, in place of an older one."""
    body = _body(text)
    return f"{_SEAL}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def seal_is_intact(text: str) -> bool | None:
    """Whether the text is as salf wrote it; None if it carries no seal."""
    return text == sealed(text) if text.startswith(_SEAL) else None


def quoted(text: str) -> str:
    """A protobuf text-format string literal; everything outside printable ASCII as octal bytes."""
    out = []
    for byte in text.encode():
        character = chr(byte)
        if character in '"\\':
            out.append("\\" + character)
        elif 0x20 <= byte < 0x7F:
            out.append(character)
        else:
            out.append(f"\\{byte:03o}")
    return '"' + "".join(out) + '"'


def _body(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(_SEAL) else text


def _replaced(text: str, spans: Sequence[tuple[int, int]], line: str | None) -> str:
    """Put a line where the first span was, or at the end, and cut the other spans with their line ends."""
    if not spans and line is not None:
        return text + ("" if not text or text.endswith("\n") else "\n") + line + "\n"
    for number, (start, end) in reversed(list(enumerate(spans))):
        if number == 0 and line is not None:
            text = text[:start] + line + text[end:]
        else:
            stands_alone = text[:start].endswith("\n") == (start > 0) and text[end : end + 1] == "\n"
            text = text[:start] + text[end + 1 if stands_alone else end :]
    return text


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            line = text.count("\n", 0, position) + 1
            raise ConfigError(f"{CONFIG_FILE} cannot be read in line {line}: {text[position : position + 20]!r}")
        if match.lastgroup not in (None, "comment"):
            yield _Token(str(match.lastgroup), match[0], match.start(), match.end())
        position = match.end()


def _fields(tokens: Sequence[_Token], position: int, *, closing: str | None) -> tuple[tuple[ConfigField, ...], int]:
    fields = []
    while position < len(tokens) and tokens[position].text != closing:
        name = tokens[position]
        if name.kind != "word":
            raise _unexpected(tokens, position)
        position += 1
        if position < len(tokens) and tokens[position].text == ":":
            position += 1
        values, position = _values(tokens, position)
        end = tokens[position - 1].end
        if position < len(tokens) and tokens[position].text in (",", ";"):
            end = tokens[position].end
            position += 1
        fields.append(ConfigField(name.text, values, name.start, end))
    return tuple(fields), position


def _values(tokens: Sequence[_Token], position: int) -> tuple[tuple[str | tuple[ConfigField, ...], ...], int]:
    """One value, or the values of a list."""
    if position >= len(tokens) or tokens[position].text != "[":
        value, position = _value(tokens, position)
        return (value,), position
    position += 1
    values: list[str | tuple[ConfigField, ...]] = []
    while position < len(tokens) and tokens[position].text != "]":
        value, position = _value(tokens, position)
        values.append(value)
        if position < len(tokens) and tokens[position].text == ",":
            position += 1
    _expect(tokens, position, "]")
    return tuple(values), position + 1


def _value(tokens: Sequence[_Token], position: int) -> tuple[str | tuple[ConfigField, ...], int]:
    if position >= len(tokens):
        raise _unexpected(tokens, position)
    token = tokens[position]
    if token.text in ("{", "<"):
        fields, position = _fields(tokens, position + 1, closing=_CLOSING[token.text])
        _expect(tokens, position, _CLOSING[token.text])
        return fields, position + 1
    if token.kind == "word":
        return token.text, position + 1
    if token.kind != "string":
        raise _unexpected(tokens, position)
    parts = []
    while position < len(tokens) and tokens[position].kind == "string":  # neighbours are one string
        parts.append(_unescaped(tokens[position].text[1:-1]))
        position += 1
    return b"".join(parts).decode(errors="replace"), position


def _expect(tokens: Sequence[_Token], position: int, text: str) -> None:
    if position >= len(tokens) or tokens[position].text != text:
        raise _unexpected(tokens, position)


def _unexpected(tokens: Sequence[_Token], position: int) -> ConfigError:
    what = f"{tokens[position].text[:20]!r} is unexpected there" if position < len(tokens) else "it ends too early"
    return ConfigError(f"{CONFIG_FILE} is no protobuf text format: {what}")


def _unescaped(text: str) -> bytes:
    def byte(match: "re.Match[bytes]") -> bytes:
        code = match[1]
        if code[:1].isdigit():
            return bytes([int(code, 8) & 0xFF])
        return bytes([int(code[1:], 16)]) if code[:1] == b"x" and len(code) > 1 else _LETTERS.get(code, code)

    return _ESCAPE.sub(byte, text.encode())


def _version(text: object) -> int:
    if not isinstance(text, str) or not text.isdecimal():
        raise ConfigError(f"{CONFIG_FILE} names version {text!r}, expected a number")
    return int(text)
