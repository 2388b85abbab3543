"""JSON documents that guard themselves: each holds a digest of everything else in it, and has one way to be written."""

import hashlib
import json
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from salf_contract.validation import first_problem

_DIGEST_NAME = "digest"
D = TypeVar("D", bound="GuardedDocument")


class GuardedDocument(BaseModel):
    """A document that notices every changed byte; fields that it does not know are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """SHA-256 of everything else in the document, in hex digits."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> str:
        """The document as stable, readable JSON, with its digest."""
        return json.dumps(self.model_dump(mode="json") | {_DIGEST_NAME: self.digest}, indent=1, sort_keys=True) + "\n"


def parse_guarded(content: bytes, kind: type[D]) -> D:
    """Read a document as `to_json` wrote it.

    Raises:
        ValueError: not JSON, fields missing or unknown, or a byte was changed since it was written; the message goes
            behind the document's name.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError("is no JSON object")  # noqa: TRY004 - what a file holds, not what a caller gave
    values.pop(_DIGEST_NAME, None)
    try:
        document = kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"cannot be read: {first_problem(error)}") from error
    if content != document.to_json().encode():
        raise ValueError("was changed after it was written")
    return document
