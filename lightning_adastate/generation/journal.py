"""What an unfinished output needs to go on: the settings it is made with, and its newest whole state."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lightning_adastate.files import remove_partials, save_tensors
from lightning_adastate.generation.outputs import Made
from lightning_adastate.generation.settings import UNKNOWN, Setting
from lightning_adastate.streaming.state_file import load_stream_state, pack_stream_state
from lightning_adastate.types import StreamState


class Journal:
    """The file beside an output that is not finished: ``video.mp4.unfinished``.

    It is a stream state as ``state_out`` is one, so ``state_in`` takes it. In its header stand the settings and
    how much of the output belongs to the state. It is replaced whole, and goes when the output is finished.

    Args:
        output: The output it stands beside.
        settings: Everything that changes what is made, by name; see ``settings_of``.
    """

    def __init__(self, output: Path, settings: Mapping[str, Setting]) -> None:
        self.output = output
        self.path = output.with_name(f"{output.name}.unfinished")
        self.settings = dict(settings)

    @property
    def exists(self) -> bool:
        """Whether the output was begun and not finished."""
        return self.path.exists()

    def obstacle(self) -> str:
        """Return why the output cannot be continued with these settings; empty if it can be.

        Raises:
            ValueError: If the file is no journal.
        """
        begun, _ = self._read()
        for name, value in self.settings.items():
            old = begun.get(name)
            if name == UNKNOWN:
                return f"'{self.output}' cannot be continued: {value}"
            if old != value:
                return (
                    f"'{self.output}' was begun with {name} {reprlib.repr(old)}, now it is "
                    f"{reprlib.repr(value)}"
                )
        return ""

    def made(self) -> Made:
        """Return how much of the output belongs to the state.

        Raises:
            ValueError: If the file is no journal.
        """
        return self._read()[1]

    def load(self, device: torch.device) -> StreamState:
        """Return the state to go on from. Call ``Streamer.resume`` on it."""
        return load_stream_state(self.path, device=device)

    def save(self, state: StreamState, made: Made, *, fingerprint: str = "") -> None:
        """Replace what is there.

        Args:
            state: The state after ``made.num_chunks`` chunks.
            made: What of the output is on the disk already, or more.
            fingerprint: ``Streamer.fingerprint``.

        Raises:
            OSError: If there is no room; what was there stays.
        """
        tensors, header = pack_stream_state(state, fingerprint=fingerprint)
        note = json.dumps({"settings": self.settings, "made": made})
        save_tensors(self.path, tensors, {"stream_state": header, "journal": note})

    def remove(self) -> None:
        """Say that the output is finished; what killed processes left of their journals goes as well."""
        self.path.unlink(missing_ok=True)
        remove_partials(self.path)

    def _read(self) -> tuple[dict[str, Setting], Made]:
        """Return the settings it was begun with, and how much of the output belongs to its state."""
        try:
            with safe_open(self.path, framework="pt") as handle:
                metadata = handle.metadata() or {}
            note = json.loads(metadata["journal"])
            return note["settings"], Made(*note["made"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ValueError(
                f"'{self.path}' does not say how '{self.output}' was begun; "
                "`--generation.overwrite` starts anew"
            ) from error
