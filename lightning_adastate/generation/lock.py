"""One process writes an output: a lock that dies with its process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout


class OutputRefusedError(ValueError):
    """An output is not free.

    Args:
        output: Its name.
        reason: One sentence.
    """

    def __init__(self, output: Path, reason: str) -> None:
        super().__init__(reason)
        self.output = output


@contextlib.contextmanager
def only_writer(paths: Sequence[Path]) -> Iterator[None]:
    """Be the only process that writes these files, as long as the block runs.

    The lock is the system's own on a hidden file beside each; a killed process holds none.

    Raises:
        OutputRefusedError: If another process writes one of them.
    """
    with contextlib.ExitStack() as held:
        for path in sorted(paths):
            held.enter_context(_locked(path))
        yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise OutputRefusedError(
            path, f"another process is writing '{path}'; wait for it, or give another name"
        ) from None
    try:
        yield
    finally:
        # While it is held: whoever has opened it meanwhile sees that it is gone, and makes a new one.
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
