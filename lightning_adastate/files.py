"""Files that appear under their names only when they are whole, and folders for them."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

BLOCK = 1 << 20
"""Bytes of a file that are read at a time."""


def partial_path(path: str | Path) -> Path:
    """Return where the file or folder at ``path`` is written until it is whole: beside it, hidden."""
    target = Path(path)
    return target.with_name(f".{target.name}.{os.getpid()}.partial")


def remove_partials(path: str | Path) -> None:
    """Remove what killed processes left of a file. For the one process that may write it."""
    target = Path(path)
    for partial in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        partial.unlink(missing_ok=True)


def put_in_place(partial: Path, target: Path) -> None:
    """Flush a whole file to the disk and give it its name, in place of what had it."""
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    partial.replace(target)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Hand out a path to write to; the file gets its name when the block ends, or goes if it fails.

    Raises:
        OSError: Naming ``path``, if it cannot be written.
    """
    target, partial = Path(path), partial_path(path)
    with _named_after(target, partial):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            put_in_place(partial, target)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _named_after(target: Path, partial: Path) -> Iterator[None]:
    """Let errors of the system name what was meant: a full disk names no file, others the partial one."""
    try:
        yield
    except OSError as error:
        name = error.filename
        hidden = isinstance(name, str) and Path(name).is_relative_to(partial)
        if error.errno is not None and (name is None or hidden):
            error.filename, error.filename2 = str(target), None
        raise


@contextlib.contextmanager
def whole_stream(path: str | Path) -> Iterator[BinaryIO]:
    """Hand out an open file to write to; it gets its name when the block ends, or goes if it fails.

    It is locked for so long: what lies there unlocked was left by a process that is dead, see ``remove_left_over``.

    Raises:
        OSError: Naming ``path``, if it cannot be written.
    """
    with whole_file(path) as partial, partial.open("wb") as handle:
        _lock(handle)
        yield handle


def remove_left_over(folder: str | Path, ending: str) -> list[Path]:
    """Remove what dead processes left of files with that ending that they wrote by ``whole_stream``; return it.

    What another process writes at this moment stays, also where the folder is shared by several machines.
    """
    removed = []
    for partial in sorted(Path(folder).glob(f".*{ending}.*.partial")):
        with contextlib.suppress(OSError), partial.open("rb+") as handle:
            if _lock(handle):
                partial.unlink()
                removed.append(partial)
    return removed


def _lock(handle: BinaryIO) -> bool:
    """Lock a file until it is closed; return whether that was possible: not if another process has done so."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked, or on a file system without locks
        return False
    return True


@contextlib.contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Hand out an empty folder to write to; it gets its name when the block ends, or goes if it fails.

    Raises:
        OSError: If there is something of that name by then.
    """
    target, partial = Path(path), partial_path(path)
    with _named_after(target, partial):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.mkdir()
            yield partial
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def content_mark(path: str | Path) -> str:
    """Return a short hash of a file's content."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()[:16]


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all; line ends stay as they are."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file whole or not at all.

    Raises:
        OSError: Naming ``path``, if it cannot be written: a full disk, a missing permission.
    """
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with whole_file(path) as partial:
        partial.touch()
        # The user's own, as every other file has; safetensors' is 0600.
        mode = partial.stat().st_mode
        try:
            save_file(copies, partial, metadata=dict(metadata or {}))
        except SafetensorError as error:  # the system's own errors are in its text alone
            found = re.search(r"\(os error (\d+)\)", str(error))
            if found is None:
                raise
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(partial)) from error
        partial.chmod(mode)


def make_folder(folder: Path) -> None:
    """Make a folder where there is none, before hours are spent on what goes into it.

    Raises:
        ValueError: If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder '{folder}': {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write into the folder '{folder}'")


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Make a folder for what the block writes; if the block fails, an empty new one goes again.

    Raises:
        ValueError: If nothing can be written there.
    """
    new = missing_folders(folder / "file")
    make_folder(folder)
    try:
        yield
    except BaseException:
        remove_empty(new)
        raise


def missing_folders(*paths: str | Path | None) -> list[Path]:
    """Return the folders that writing to ``paths`` would make, deepest first."""
    parents = {folder for path in paths if path is not None for folder in Path(path).parents}
    return sorted((p for p in parents if not p.exists()), key=lambda p: -len(p.parts))


def remove_empty(folders: list[Path]) -> None:
    """Remove those folders that hold nothing, in their order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
