"""When a call is repeated: only where that helps, within its deadline, and never so often that retries are the load."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from salf_client.errors import (
    ClientError,
    DeadlineExceededError,
    ModelNotFoundError,
    ServerFailedError,
    ServerNotReadyError,
    ServerOverloadedError,
    ServerUnavailableError,
)

Where: TypeAlias = Literal["never", "elsewhere", "anywhere"]

#: Every call only asks, so all of them could be repeated safely; these are the errors after which it can help.
#: "elsewhere": only another endpoint can answer better. A subclass is found before its base.
RETRIED: tuple[tuple[type[ClientError], Where], ...] = (
    (ServerUnavailableError, "anywhere"),
    (ServerNotReadyError, "anywhere"),
    (ServerOverloadedError, "anywhere"),
    (ServerFailedError, "elsewhere"),
    (DeadlineExceededError, "elsewhere"),
    (ModelNotFoundError, "elsewhere"),
)


def where_to_retry(error: ClientError) -> Where:
    """Where a call that ended with this error may be repeated."""
    return next((where for kind, where in RETRIED if isinstance(error, kind)), "never")


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How calls are repeated; `Retry(attempts=1)` never does.

    Attributes:
        attempts: at most so many, the first included.
        first_pause_s: upper end of the random pause before the second attempt; it doubles with each further one.
        longest_pause_s: where doubling ends.
        budget: so many retries may be made at once; each call earns `earned` of another one.
        earned: retries per call in the long run: 0.2 allows a fifth of extra load.
        attempt_timeout_s: limit for a single attempt, after which another endpoint is asked; None leaves an attempt
            all of the call's time.
    """

    attempts: int = 4
    first_pause_s: float = 0.1
    longest_pause_s: float = 2.0
    budget: float = 20.0
    earned: float = 0.2
    attempt_timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, but it is {self.attempts}")
        for name in ("first_pause_s", "longest_pause_s", "budget", "earned"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but it is {getattr(self, name)}")
        if self.attempt_timeout_s is not None and self.attempt_timeout_s <= 0:
            raise ValueError(f"attempt_timeout_s must be positive, but it is {self.attempt_timeout_s}")

    def pause_s(self, attempt: int, *, jitter: Callable[[], float] = random.random) -> float:
        """Seconds to wait after attempt number `attempt` (from 1), anywhere from 0 to the doubled limit."""
        return jitter() * min(self.longest_pause_s, self.first_pause_s * 2.0 ** (attempt - 1))


class Budget:
    """Retries that may still be made; threads may share it.

    Args:
        retry: says how many at once, and how many each call earns.
    """

    def __init__(self, retry: Retry) -> None:
        self._most, self._earned = retry.budget, retry.earned
        self._left = retry.budget
        self._lock = threading.Lock()

    def earn(self) -> None:
        """A call begins."""
        if self._left < self._most:
            with self._lock:
                self._left = min(self._most, self._left + self._earned)

    def spend(self) -> bool:
        """Take one retry; False if there is none."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True
