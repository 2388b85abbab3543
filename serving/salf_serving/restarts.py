"""How often a process may be started again."""

import time
from collections import deque

from salf_serving.errors import ServerDiedError

#: So many deaths within this time mean that starting again does not help.
MOST_DEATHS, WINDOW_S = 5, 120.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


class Restarts:
    """The deaths of one process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._deaths_s: deque[float] = deque()

    def pause_s(self, reason: str) -> float:
        """Count a death; returns how long to wait before the next start, more after each death in a row.

        Args:
            reason: for the message, such as a status and a log file.

        Raises:
            ServerDiedError: it died too often within two minutes.
        """
        now = time.monotonic()
        self._deaths_s.append(now)
        while now - self._deaths_s[0] > WINDOW_S:
            self._deaths_s.popleft()
        if len(self._deaths_s) > MOST_DEATHS:
            raise ServerDiedError(
                f"{self._name} died {len(self._deaths_s)} times within {WINDOW_S:g} s and is left alone now: {reason}"
            )
        return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 4 ** (len(self._deaths_s) - 1)))
