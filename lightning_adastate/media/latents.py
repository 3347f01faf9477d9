"""Append latents to a safetensors file without keeping them: it appears under its name when whole."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

import json
import math
from pathlib import Path

from torch import Tensor

from lightning_adastate.files import put_in_place
from lightning_adastate.media.output_file import OutputFile

HEADER_BYTES = 248
"""Room kept for the header, so that data starts at byte 256 and the shape can be filled in last."""

START = 8 + HEADER_BYTES


class LatentsWriter:
    """Write one stream's latents ``[1, F, C, H, W]``, float32, as the tensor ``latents``.

    Args:
        path: Where to. The file is written beside its place and moved there by ``finish``.
        frame_shape: ``(C, H, W)`` of a frame; ``None`` takes the first frame's. ``keep_frames`` needs it.
        keep_frames: Go on behind so many frames of a file that was begun before; 0 begins anew.

    Raises:
        ValueError: If nothing can be written there, or the file holds fewer frames.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frame_shape: tuple[int, ...] | None = None,
        keep_frames: int = 0,
    ) -> None:
        self.path = Path(path)
        self.num_frames = keep_frames
        self._frame_shape = frame_shape if keep_frames else None
        self._partial = unfinished_path(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot write {str(path)!r}: {error.strerror}") from error
        if keep_frames:
            self._check_held(keep_frames)
        self._file = OutputFile(self._partial, new=not keep_frames)
        if keep_frames:
            self._file.truncate(self._end)
            self._file.seek(self._end)
        else:
            self._file.write(b" " * START)

    @property
    def _end(self) -> int:
        """Return where the whole frames end, in bytes."""
        if self._frame_shape is None:
            return START
        return START + 4 * self.num_frames * math.prod(self._frame_shape)

    def _check_held(self, keep_frames: int) -> None:
        """Take the file up again, whether it was finished or not."""
        if not self._partial.exists() and self.path.is_file():
            self.path.rename(self._partial)
        if not self._partial.exists() or self._partial.stat().st_size < self._end:
            raise ValueError(
                f"'{self.path}' does not hold the {keep_frames} frames that were written; "
                "`generation.overwrite` starts anew"
            )

    def append(self, latents_FCHW: Tensor) -> None:
        """Write frames ``[F, C, H, W]``.

        Raises:
            ValueError: If they are of another size than those before.
            OSError: If there is no room, naming the file.
        """
        shape = tuple(latents_FCHW.shape[1:])
        if self._frame_shape is None:
            self._frame_shape = shape
        if shape != self._frame_shape:
            raise ValueError(f"expected frames of {self._frame_shape}, got {shape}")
        plain = latents_FCHW.detach().float().cpu().contiguous().numpy()
        self._file.write(plain.astype("<f4", copy=False).tobytes())
        self.num_frames += latents_FCHW.shape[0]

    def sync(self) -> None:
        """Wait until all frames are on the disk."""
        if not self._file.closed:
            self._file.sync()

    def finish(self) -> None:
        """Fill in the header and move the file to its place; without a frame nothing appears."""
        if self._frame_shape is None or not self.num_frames:
            return self.discard()
        shape = [1, self.num_frames, *self._frame_shape]
        header = {
            "latents": {"dtype": "F32", "shape": shape, "data_offsets": [0, self._end - START]}
        }
        text = json.dumps(header).encode().ljust(HEADER_BYTES)
        assert len(text) == HEADER_BYTES
        self._file.truncate(self._end)  # a frame that found no room may be there in part
        self._file.seek(0)
        self._file.write(HEADER_BYTES.to_bytes(8, "little") + text)
        self._file.close()
        put_in_place(self._partial, self.path)
        return None

    def discard(self) -> None:
        """Leave nothing behind."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


def unfinished_path(path: Path) -> Path:
    """Return where latents are written until they are whole: beside their place, hidden."""
    return path.with_name(f".{path.name}.unfinished")
