"""Append latents to a safetensors file without keeping them: it appears under its name when whole."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from lightning_adastate.files import partial_path, put_in_place

HEADER_BYTES = 248
"""Room kept for the header, so that data starts at byte 256 and the shape can be filled in last."""


class LatentsWriter:
    """Write one stream's latents ``[1, F, C, H, W]``, float32, as the tensor ``latents``.

    Args:
        path: Where to. The file is written beside its place and moved there by ``finish``.

    Raises:
        ValueError: If nothing can be written there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.num_frames = 0
        self._frame_shape: tuple[int, ...] | None = None
        self._partial = partial_path(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._partial.open("wb")
        except OSError as error:
            raise ValueError(f"cannot write {str(path)!r}: {error.strerror}") from error
        self._file.write(b" " * (8 + HEADER_BYTES))

    def append(self, latents_FCHW: Tensor) -> None:
        """Write frames ``[F, C, H, W]``.

        Raises:
            ValueError: If they are of another size than those before.
        """
        shape = tuple(latents_FCHW.shape[1:])
        if self._frame_shape is None:
            self._frame_shape = shape
        if shape != self._frame_shape:
            raise ValueError(f"expected frames of {self._frame_shape}, got {shape}")
        plain = latents_FCHW.detach().float().cpu().contiguous().numpy()
        self._file.write(plain.astype("<f4", copy=False).tobytes())
        self.num_frames += latents_FCHW.shape[0]

    def finish(self) -> None:
        """Fill in the header and move the file to its place; without a frame nothing appears."""
        if self._frame_shape is None:
            return self.discard()
        shape = [1, self.num_frames, *self._frame_shape]
        size = self._file.tell() - 8 - HEADER_BYTES
        header = {"latents": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
        text = json.dumps(header).encode().ljust(HEADER_BYTES)
        assert len(text) == HEADER_BYTES
        self._file.seek(0)
        self._file.write(HEADER_BYTES.to_bytes(8, "little") + text)
        self._file.close()
        put_in_place(self._partial, self.path)
        return None

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._partial.unlink(missing_ok=True)
