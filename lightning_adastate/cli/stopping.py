"""What a run that was stopped by a signal says, and its exit code: 130 after Ctrl-C, 143 after SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_adastate.callbacks.graceful_stop import stopped_by
from lightning_adastate.training.trainers import where_to_go_on


@contextlib.contextmanager
def told_of_signals(trainer: Trainer) -> Iterator[None]:
    """Leave with the exit code of the signal that stopped what the block did.

    Raises:
        SystemExit: With it.
    """
    try:
        with _sigterm_raises():
            yield
        number = stopped_by(trainer)  # it has said so itself
    except SIGTERMException:
        number = signal.SIGTERM
        _tell(trainer, number)
    except SystemExit as leaving:  # what Lightning makes of a KeyboardInterrupt
        if not isinstance(leaving.__context__, KeyboardInterrupt):
            raise
        number = signal.SIGINT
        _tell(trainer, number)
    if number is not None:
        # Launched by the first process, the others must not look as if they had failed: it would be killed.
        raise SystemExit(128 + number if trainer.is_global_zero else 0)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Let SIGTERM raise where nobody listens: Lightning begins to only after the hooks that open a run."""
    listens = threading.current_thread() is threading.main_thread()
    if not listens or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise SIGTERMException


def _tell(trainer: Trainer, number: signal.Signals) -> None:
    if trainer.is_global_zero:
        print(f"stopped by {number.name}. {where_to_go_on(trainer)}", file=sys.stderr)
