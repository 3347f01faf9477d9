"""Embeddings kept on disk, so that a prompt is encoded once and the encoder need not be loaded again."""

# Shapes: B batch, S text tokens, D text dim.

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lightning_adastate.files import save_tensors
from lightning_adastate.text.base import TextEncoder

log = logging.getLogger(__name__)


class CachedEncoder(TextEncoder):
    """Encode each prompt once: the embedding is a file, named by the prompt and the encoder.

    Files of another encoder, or of the same one with other weights or options, lie in another folder.
    A file is never half there, so several processes may share the folder. Embeddings come on the CPU,
    and without the encoder if all are known.

    Args:
        encoder: What encodes.
        folder: Where the files are, ``~`` being home; made when the first one is written.
    """

    def __init__(self, encoder: TextEncoder, *, folder: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.folder = Path(folder).expanduser()
        self.text_dim = encoder.text_dim
        self.max_tokens = encoder.max_tokens

    @property
    def fingerprint(self) -> str:
        """Return the encoder's: what is kept is what it made."""
        return self.encoder.fingerprint

    def problem(self, prompt: str) -> str | None:
        """Say why the encoder cannot encode a prompt; ``None`` if it can."""
        return self.encoder.problem(prompt)

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Return ``[B, S, D]`` on the CPU, from disk where it is there."""
        if isinstance(prompts, str):
            raise TypeError(f"expected a list of prompts, got the string {prompts!r}")
        home = self.folder / self.fingerprint
        known = {prompt: self._read(self._file(home, prompt)) for prompt in dict.fromkeys(prompts)}
        missing = [prompt for prompt, rows in known.items() if rows is None]
        if missing:
            made_BSD = self.encoder(missing).detach().cpu()
            for prompt, text_SD in zip(missing, made_BSD, strict=True):
                known[prompt] = rows_SD = without_padding(text_SD)
                self._write(self._file(home, prompt), rows_SD, prompt)
        rows = [found for prompt in prompts if (found := known[prompt]) is not None]
        text_BSD = rows[0].new_zeros(len(rows), self.max_tokens, self.text_dim)
        for text_SD, rows_SD in zip(text_BSD, rows, strict=True):
            text_SD[: len(rows_SD)] = rows_SD
        return text_BSD

    def _file(self, home: Path, prompt: str) -> Path:
        """Return where a prompt's embedding is."""
        return home / f"{hashlib.sha256(prompt.encode()).hexdigest()}.safetensors"

    def _read(self, file: Path) -> Tensor | None:
        """Return the rows of a file, ``[S, D]``, or ``None`` if it is missing or damaged."""
        if not file.is_file():
            return None
        try:
            rows_SD = load_file(file)["text"]
        except (OSError, SafetensorError, KeyError) as error:
            log.warning("%s is damaged (%s); the prompt is encoded again", file, error)
            return None
        if rows_SD.ndim == 2 and len(rows_SD) <= self.max_tokens:
            return rows_SD if rows_SD.shape[1] == self.text_dim else None
        return None

    def _write(self, file: Path, rows_SD: Tensor, prompt: str) -> None:
        """Write a file whole or not at all. Only rows that are no padding are kept."""
        save_tensors(file, {"text": rows_SD}, {"prompt": prompt})


def without_padding(text_SD: Tensor) -> Tensor:
    """Return the rows up to the last one that is not zero."""
    used = text_SD.ne(0).any(dim=1).nonzero()
    return text_SD[: int(used[-1]) + 1 if len(used) else 0].contiguous().clone()
