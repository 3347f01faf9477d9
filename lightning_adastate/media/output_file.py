"""A file that is written piece by piece: its errors name it, and it can be cut back to what is whole."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class OutputFile(io.FileIO):
    """A binary file without a buffer of its own, so that a full disk is noticed by the write that met it.

    Args:
        path: Where it is.
        new: Begin it anew; otherwise it must be there, and keeps what it holds.

    Raises:
        ValueError: If nothing can be written there.
    """

    def __init__(self, path: str | Path, *, new: bool = True) -> None:
        self.path = Path(path)
        self.is_cut = False
        try:
            super().__init__(self.path, "w+b" if new else "r+b")
        except OSError as error:
            raise ValueError(f"cannot write {str(path)!r}: {error.strerror}") from error

    def write(self, data: Buffer, /) -> int:
        """Write all of it; what comes after a cut goes nowhere.

        Raises:
            OSError: Naming the file.
        """
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and not self.is_cut:
                done += super().write(view[done:]) or 0
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        return len(view)

    def cut(self, size: int) -> None:
        """Keep the first ``size`` bytes, and drop what is still written by whoever holds the file."""
        self.truncate(size)
        self.is_cut = True

    def sync(self) -> None:
        """Wait until it is on the disk.

        Raises:
            OSError: Naming the file.
        """
        try:
            os.fsync(self.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
