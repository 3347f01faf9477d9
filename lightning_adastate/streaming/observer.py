"""Who watches a step: told of every layout and every pass, and changing nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_adastate.types import BackboneOutput

if TYPE_CHECKING:
    from lightning_adastate.streaming.context import ChunkContext, PassReads


class StepObserver:
    """Watch the steps of a stream; subclass it and define what is to be seen.

    ``Streamer.step`` calls it in the order in which things happen. It must not change what it is shown.

    Args:
        needs_kv: Whether passes are to show their live frames' raw keys, values and queries as well. They are
            then computed for passes that would not need them; the stream stays the same.
    """

    def __init__(self, *, needs_kv: bool = False) -> None:
        self.needs_kv = needs_kv

    def on_context(self, context: ChunkContext, *, reencodes: bool) -> None:
        """Note how a chunk is laid out, before its first pass.

        Args:
            context: The layout, and what passes read.
            reencodes: Whether an event encodes old frames anew, before the chunk itself.
        """

    def on_pass(
        self,
        context: ChunkContext,
        reads: PassReads,
        timesteps: tuple[float, ...],
        output: BackboneOutput,
    ) -> None:
        """Note a pass that was made.

        Args:
            context: The layout, and what passes read.
            reads: What the pass read beside its live frames.
            timesteps: Timestep of each live frame, state frames first; of the first row where rows differ.
            output: Velocity and, with ``needs_kv``, raw keys, values and queries of the live frames.
        """
