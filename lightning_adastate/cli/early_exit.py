"""Ctrl-C and SIGTERM before there is anything to save: one line, at once.

A ``KeyboardInterrupt`` would surface inside some library's import or constructor, where it is swallowed, turned into
another error, or shown as a trace of a hundred lines.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

DEFAULTS: dict[signal.Signals, signal._HANDLER] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}
"""What these signals do in a new Python process. Who has set anything else keeps it."""


def leave_at_once() -> None:
    """Let the signals end the process until ``work_begins``."""
    if threading.current_thread() is threading.main_thread():
        for number, default in DEFAULTS.items():
            if signal.getsignal(number) == default:
                signal.signal(number, _leave)


def work_begins() -> None:
    """Give the signals back: from here on there may be something to close."""
    if threading.current_thread() is threading.main_thread():
        for number, default in DEFAULTS.items():
            if signal.getsignal(number) == _leave:
                signal.signal(number, default)


def _leave(number: int, frame: FrameType | None) -> None:
    del frame
    name = signal.Signals(number).name
    os.write(2, f"stopped by {name} before anything had begun\n".encode())
    os._exit(128 + number)
