"""The file of clients' tokens: one `NAME TOKEN` a line, readable by its owner only."""

import re
from collections.abc import Mapping
from pathlib import Path

from salf_serving.errors import FrontError

MOST_TOKENS = 1000
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9_~+/=.-]{32,256}")


def read_tokens(path: Path) -> dict[str, str]:
    """Read clients' tokens.

    No message holds a token.

    Returns:
        token -> name of its client; several tokens may carry one name, so that they can be changed in turn.

    Raises:
        FrontError: the file is missing, open to others, empty, or has a line that is not `NAME TOKEN`.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FrontError(f"the tokens in {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FrontError(f"the tokens in {path} are no text; write UTF-8, a line of NAME TOKEN for each") from error
    if mode & 0o027:  # a group may read: Kubernetes mounts secrets so
        raise FrontError(f"{path} holds tokens and must be closed to others: chmod 600 {path}")
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = line.split()
        if len(parts) != 2 or not _NAME.fullmatch(parts[0]) or not _TOKEN.fullmatch(parts[1]):
            raise FrontError(
                f"line {number} of {path} must be NAME TOKEN: a name of letters, digits, _ . -, and 32 to 256 "
                "characters such as `openssl rand -hex 32` prints"
            )
        if parts[1] in found:
            raise FrontError(
                f"line {number} of {path} repeats the token of {found[parts[1]]}; make another with "
                "`openssl rand -hex 32`"
            )
        found[parts[1]] = parts[0]
    if not 1 <= len(found) <= MOST_TOKENS:
        raise FrontError(f"{path} holds {len(found)} tokens, but 1 to {MOST_TOKENS} are needed")
    return found


def token_map(tokens: Mapping[str, str]) -> str:
    """Nginx's map from the `authorization` header to the client's name.

    Regular expressions, because nginx compares plain strings of a map without regard to case.
    """
    lines = [f'"~^[Bb]earer {re.escape(token)}$" {name};\n' for token, name in tokens.items()]
    return "".join(lines)
