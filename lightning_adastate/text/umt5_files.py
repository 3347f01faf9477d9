"""Where the files of a UMT5 encoder are, and a hash of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lightning_adastate.text.umt5_native import native_folders

SAMPLES, SAMPLE_BYTES = 64, 16384
"""What a fingerprint reads of a large file: so many pieces of so many bytes, evenly spread."""


def find_folders(folder: str) -> tuple[Path, Path]:
    """Return where weights (a folder, or Wan's own file) and tokenizer are, from the hub if need be.

    Raises:
        ValueError: If it is neither a folder nor can be fetched.
    """
    root = Path(folder)
    if not root.is_dir():
        root = _fetch(folder)
    if (native := native_folders(root)) is not None:
        return native
    if (root / "text_encoder").is_dir():
        return root / "text_encoder", root / "tokenizer"
    return root, root


def _fetch(name: str) -> Path:
    """Return where the hub's client keeps the text encoder and tokenizer of that name."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    wanted = ["text_encoder/*", "tokenizer/*"]
    try:
        found = Path(snapshot_download(name, allow_patterns=wanted))
        if not (found / "text_encoder").is_dir():
            found = Path(snapshot_download(name))
    except (OSError, HFValidationError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name!r} is no folder, and cannot be fetched from the hub: {line}"
        ) from error
    return found


def sampled(file: Path) -> bytes:
    """Return a hash of a file: whole if it is small, else of evenly spread pieces."""
    size, most = file.stat().st_size, SAMPLES * SAMPLE_BYTES
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        if size <= most:
            digest.update(handle.read())
        else:
            for index in range(SAMPLES):
                handle.seek(index * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(handle.read(SAMPLE_BYTES))
    return digest.digest()
