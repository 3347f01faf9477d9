"""What waits for one viewer: the newest picture, the newest status, and a few answers; never more."""

from __future__ import annotations

import asyncio
import time
from collections import deque

MAX_ANSWERS = 16
"""Answers that may wait; who takes none of them is gone."""

MAX_COMMANDS = 30
"""Commands of one viewer in `COMMAND_SECONDS`."""

COMMAND_SECONDS = 10.0


class Viewer:
    """A bounded queue, latest wins, and a limit on what may be asked. For one event loop.

    Args:
        max_fragments: Fragments that may wait; the oldest makes room.
    """

    def __init__(self, *, max_fragments: int = 2) -> None:
        self.num_dropped = 0
        self.num_sent = 0
        self._fragments: deque[bytes] = deque(maxlen=max_fragments)
        self._status: str | None = None
        self._answers: deque[str] = deque()
        self._ready = asyncio.Event()
        self._asked: deque[float] = deque(maxlen=MAX_COMMANDS)

    @property
    def num_waiting(self) -> int:
        """Count what waits."""
        return len(self._fragments) + len(self._answers) + (self._status is not None)

    @property
    def is_stuck(self) -> bool:
        """Whether more answers wait than anybody leaves lying who reads."""
        return len(self._answers) > MAX_ANSWERS

    def offer(self, fragment: bytes) -> None:
        """Give it the newest picture."""
        self.num_dropped += len(self._fragments) == self._fragments.maxlen
        self._fragments.append(fragment)
        self._ready.set()

    def tell(self, status: str) -> None:
        """Give it the newest status."""
        self._status = status
        self._ready.set()

    def answer(self, text: str) -> None:
        """Give it an answer; one too many is not kept, and says that it is stuck."""
        if not self.is_stuck:
            self._answers.append(text)
        self._ready.set()

    def may_ask(self) -> bool:
        """Note a command, and say whether it is one of not too many."""
        now = time.monotonic()
        if len(self._asked) == MAX_COMMANDS and now - self._asked[0] < COMMAND_SECONDS:
            return False
        self._asked.append(now)
        return True

    async def next(self) -> str | bytes:
        """Wait for what comes next: answers, then the status, then pictures."""
        while not self.num_waiting:
            self._ready.clear()
            await self._ready.wait()
        if self._answers:
            return self._answers.popleft()
        if self._status is not None:
            status, self._status = self._status, None
            return status
        self.num_sent += 1
        return self._fragments.popleft()
