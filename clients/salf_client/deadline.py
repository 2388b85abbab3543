"""One time limit, shared by the steps of a call."""

import time
from dataclasses import dataclass

from salf_client.errors import DeadlineExceededError


@dataclass(frozen=True)
class Deadline:
    """A moment by which a call must be done.

    Attributes:
        timeout_s: seconds that were allowed, for messages.
        ends_at_s: on the monotonic clock.
    """

    timeout_s: float
    ends_at_s: float

    @classmethod
    def after(cls, timeout_s: float) -> "Deadline":
        """A deadline that many seconds from now."""
        return cls(timeout_s=timeout_s, ends_at_s=time.monotonic() + timeout_s)

    def remaining_s(self) -> float:
        """Seconds left, always positive.

        Raises:
            DeadlineExceededError: none are left.
        """
        remaining = self.left_s()
        if remaining <= 0:
            raise DeadlineExceededError(
                f"no time left of the {self.timeout_s:g} s allowed; give the client a larger timeout_s"
            )
        return remaining

    def left_s(self) -> float:
        """Seconds left; negative if it is over."""
        return self.ends_at_s - time.monotonic()
