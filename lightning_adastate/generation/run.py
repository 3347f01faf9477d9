"""A run that may stop at any moment: its files, and beside them the newest state that goes with them."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from typing_extensions import Self

from lightning_adastate.generation.journal import Journal
from lightning_adastate.generation.outputs import Made, StreamOutputs
from lightning_adastate.generation.saving import SavePolicy
from lightning_adastate.streaming.pipeline import VideoChunk
from lightning_adastate.types import StreamState


class StreamRun:
    """Write a stream's chunks, and what it takes to go on after any of them.

    The state after a chunk is saved only once all files hold that chunk: a video's newest frames can be read
    when the fragment behind them begins, so it waits for a chunk more. Leaving the block makes every file whole as
    far as the stream has come; a stream that made nothing leaves nothing, one that did not reach its end leaves
    its journal, and says so.

    Args:
        outputs: The files.
        journal: Where the state goes.
        num_chunks: How long the whole output is to be.
        policy: When to save.
    """

    def __init__(
        self, outputs: StreamOutputs, journal: Journal, *, num_chunks: int, policy: SavePolicy
    ) -> None:
        self.outputs = outputs
        self.journal = journal
        self.num_chunks = num_chunks
        self.policy = policy
        self.saved = outputs.made
        self._waiting: tuple[StreamState, Made] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the output has reached its length."""
        return self.outputs.made.num_chunks >= self.num_chunks

    def append(self, piece: VideoChunk) -> None:
        """Write a chunk, and save the state if it is time.

        Raises:
            OSError: If there is no room, naming the file.
        """
        self.outputs.append(piece)
        self._save_waiting()
        if self._waiting is None and self.policy.is_due(piece.state):
            self._waiting = piece.state, self.outputs.made
            self._save_waiting()

    def _save_waiting(self) -> None:
        """Save the state that waits, once all files hold its chunk."""
        if self._waiting is not None and self.outputs.hold(self._waiting[1]):
            (state, made), self._waiting = self._waiting, None
            self._save(state, made)

    def _save(self, state: StreamState, made: Made) -> None:
        begun = time.monotonic()
        if state.is_finite:
            self.outputs.sync()
            self.journal.save(state, made, fingerprint=self.outputs.fingerprint)
            self.saved = made
        self.policy.took(time.monotonic() - begun, state)

    def __enter__(self) -> Self:
        if not self.journal.exists or not self.outputs.made.num_chunks:
            try:
                self._save(self.outputs.state, self.outputs.made)
            except OSError:
                self.outputs.discard()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.outputs.made.num_chunks:
            self.outputs.discard()
            self.journal.remove()
            return
        failures = self.outputs.finish()
        if error is None and not failures and self.is_whole:
            self.journal.remove()
            return
        failures += self._save_newest()
        print(self.how_to_go_on, file=sys.stderr)
        if error is None and failures:
            raise failures[0]

    def _save_newest(self) -> list[OSError]:
        """Save the newest state whose chunk all files hold."""
        newest = self.outputs.state, self.outputs.made
        for state, made in (newest, self._waiting or newest):
            if made.num_chunks > self.saved.num_chunks and self.outputs.hold(made):
                try:
                    self._save(state, made)
                except OSError as error:
                    return [error]
        return []

    @property
    def how_to_go_on(self) -> str:
        """Say how far it came, and from where the same command goes on."""
        return (
            f"stopped after chunk {self.outputs.made.num_chunks} of {self.num_chunks}; the same command goes on "
            f"with chunk {self.saved.num_chunks + 1}"
        )
