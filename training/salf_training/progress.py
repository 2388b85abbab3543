"""Progress of long stages, told to whoever wants to show it."""

from typing import Protocol


class Progress(Protocol):
    """Called as a stage goes on: `done` of `total` steps of `stage`; may be called often."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note; must not raise."""


def silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""
    del stage, done, total
