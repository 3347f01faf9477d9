"""How much attention each cached frame gets, measured on a running stream (AdaState section 3.1, Fig. 2)."""

# Shapes: L layers, B batch, F frames, S query tokens, K key tokens, N heads, D head dim, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_adastate.analysis.layout import lay_out
from lightning_adastate.rope import rope_table, rotate
from lightning_adastate.streaming.context import ChunkContext, PassReads
from lightning_adastate.streaming.observer import StepObserver
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import BackboneOutput, Chunk, StreamState


class ReadFrame(NamedTuple):
    """A frame that a pass read from memory.

    Args:
        role: Whether the anchor holds it or the window.
        frame_index: Number of the frame in the stream, of several the newest.
        place: Temporal index it stood at, relative to the chunk's last frame.
    """

    role: Literal["anchor", "cached"]
    frame_index: int
    place: float


@dataclass(frozen=True)
class PassMass:
    """What one pass attended to, mean over batch and live queries.

    Args:
        chunk: Index of the chunk.
        timestep: Noise of its own frames; 0 is the clean pass.
        frames: The frames it read, in the order of memory: the anchor's first, the newest last.
        share_LNF: Each frame's part of the attention that goes to read frames at all; sums to 1 over F.
        context_LN: The part of all attention that goes to read frames; the rest stays with the live ones.
    """

    chunk: int
    timestep: float
    frames: tuple[ReadFrame, ...]
    share_LNF: Tensor
    context_LN: Tensor

    @property
    def num_anchor(self) -> int:
        """Count the anchor's frames."""
        return sum(frame.role == "anchor" for frame in self.frames)

    @property
    def by_frame(self) -> Tensor:
        """Return each frame's share, mean over layers and heads."""
        return self.share_LNF.mean((0, 1))

    @property
    def anchor_rank(self) -> int:
        """Return the place of the anchor's strongest frame among all by their shares, 1 is the first."""
        shares = self.by_frame
        return int((shares > shares[: self.num_anchor].max()).sum()) + 1


def probe_attention(
    streamer: Streamer, state: StreamState, num_chunks: int
) -> Iterator[tuple[Chunk, tuple[PassMass, ...]]]:
    """Stream, and yield every chunk with what its passes attended to.

    The stream is the one that ``streamer`` makes, by its own loop; what a pass computes is not changed. The
    softmax is done again in float32, head by head, so it is slow: for looking, not for streaming.

    Args:
        streamer: What streams.
        state: Where it begins.
        num_chunks: How many chunks.

    Raises:
        ValueError: If there is no chunk.
    """
    if num_chunks < 1:
        raise ValueError(f"`num_chunks` must be 1 or more, got {num_chunks}")
    return _probed(streamer, state, num_chunks)


def _probed(
    streamer: Streamer, state: StreamState, num_chunks: int
) -> Iterator[tuple[Chunk, tuple[PassMass, ...]]]:
    """Stream; apart from the check, which must not wait for the first chunk."""
    probe = AttentionProbe()
    for _ in range(num_chunks):
        with torch.no_grad():
            chunk = streamer.step(state, observer=probe)
        yield chunk, probe.collect()
        state = chunk.state


def nothing_read(streamer: Streamer, num_chunks: int) -> str:
    """Return what to say where no pass of so many chunks read a frame from memory."""
    anchor, cache, schedule = streamer.anchor, streamer.cache, streamer.schedule
    chunks = cache.max_frames // schedule.chunk_frames + anchor.num_frames + 2
    for chunk in lay_out(anchor, cache, schedule, chunks):
        if any(not slot.is_live for one in chunk.passes for slot in one.slots):
            return (
                f"no pass of {num_chunks} chunks reads a frame from memory; the first that does is in chunk "
                f"{chunk.index}: ask for {chunk.index + 1} or more `--chunks`"
            )
    return (
        f"no pass of this configuration reads a frame from memory: {type(anchor).__name__} shows none, and the window "
        "of its cache is full with the chunk itself; give it an anchor or a larger window"
    )


def frame_shares(
    query_BSND: Tensor, key_BKND: Tensor, tokens: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return each read frame's share of the attention to read frames ``[N, F]``, and their part of all ``[N]``.

    Args:
        query_BSND: Queries of the live frames, rotated.
        key_BKND: Keys of the read frames, then of the live ones, rotated.
        tokens: Tokens of each read frame; what is behind them is live.
    """
    heads = []
    for query_BSD, key_BKD in zip(query_BSND.unbind(2), key_BKND.unbind(2), strict=True):
        logits = query_BSD.float() @ key_BKD.float().transpose(1, 2) / query_BSD.shape[-1] ** 0.5
        mass_K = logits.softmax(-1).mean((0, 1))
        read, live = mass_K[: sum(tokens)], mass_K[sum(tokens) :]
        heads.append(torch.stack([part.sum() for part in (*read.split(list(tokens)), live)]))
    mass_NF = torch.stack(heads)
    context = mass_NF[:, :-1].sum(1)
    return mass_NF[:, :-1] / context[:, None], context


class AttentionProbe(StepObserver):
    """Note what every pass of a step attends to. Hand it to ``Streamer.step``, then ``collect``."""

    def __init__(self) -> None:
        super().__init__(needs_kv=True)
        self._seen: list[PassMass] = []

    def collect(self) -> tuple[PassMass, ...]:
        """Return what was seen since the last time."""
        seen, self._seen = tuple(self._seen), []
        return seen

    def on_pass(
        self,
        context: ChunkContext,
        reads: PassReads,
        timesteps: tuple[float, ...],
        output: BackboneOutput,
    ) -> None:
        """Note what the pass attended to, if it read anything."""
        frames, tokens = _read_frames(context, reads)
        if frames:
            shares = _shares(context, reads, tokens, output)
            self._seen.append(PassMass(context.state.chunk, timesteps[-1], frames, *shares))


def _read_frames(
    context: ChunkContext, reads: PassReads
) -> tuple[tuple[ReadFrame, ...], list[int]]:
    """Return the frames that a pass read, and the tokens of each."""
    parts, index = context.frames_read(reads)
    anchors = len(context.plan.anchor) if reads.anchor else 0
    places = context.relative(index)
    frames: list[ReadFrame] = []
    tokens: list[int] = []
    for number, part in enumerate(parts):
        role: Literal["anchor", "cached"] = "anchor" if number < anchors else "cached"
        for frame_index in part.frame_indices:
            frames.append(ReadFrame(role, frame_index, places[len(frames)]))
            tokens.append(part.key_LBFTND.shape[3])
    return tuple(frames), tokens


def _shares(
    context: ChunkContext, reads: PassReads, tokens: Sequence[int], output: BackboneOutput
) -> tuple[Tensor, Tensor]:
    """Return each read frame's share of the attention in every layer and head, and their part of all."""
    window = context.window(reads)
    assert window is not None
    assert output.kv is not None
    assert output.query_LBFTND is not None
    backbone = context.backbone
    positions = context.live_positions(output.query_LBFTND.shape[2])
    grid = backbone.token_grid(*context.state.latent_shape[1:])
    device, dim = output.query_LBFTND.device, backbone.head_dim
    tables = [rope_table(part, *grid, dim, device) for part in positions]
    found = []
    for layer in range(backbone.num_layers):
        query = rotate(output.query_LBFTND[layer].flatten(1, 2), tables[0])
        own = rotate(output.kv.key_LBFTND[layer].flatten(1, 2), tables[1])
        cached = window.key_LBSND[layer, :, : window.num_tokens].to(own.dtype)
        found.append(frame_shares(query, torch.cat([cached, own], 1), tokens))
    shares, context_N = zip(*found, strict=True)
    return torch.stack(shares).cpu(), torch.stack(context_N).cpu()


__all__ = ["AttentionProbe", "PassMass", "ReadFrame", "frame_shares", "probe_attention"]
