"""Stopping a stream by hand, between two chunks."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopRequest:
    """Turn the first Ctrl-C or SIGTERM into a wish; the second one does what it always did.

    ``exit_code`` is then that of what was stopped by the signal, as shells report it: 130 or 143.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False
        self.exit_code = 0
        self._before = {number: signal.getsignal(number) for number in self.SIGNALS}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = True
        self.exit_code = 128 + number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            self._restore()
