"""How much attention each cached frame gets, measured on a running stream (AdaState section 3.1, Fig. 2)."""

# Shapes: L layers, B batch, F frames, S query tokens, K key tokens, N heads, D head dim, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_adastate.chunk_plan import Plan
from lightning_adastate.chunk_run import ChunkRun
from lightning_adastate.noise import NoiseSource
from lightning_adastate.rope import rope_table, rotate
from lightning_adastate.scratch import Scratch
from lightning_adastate.streamer import Streamer
from lightning_adastate.types import BackboneOutput, Chunk, StreamState


class ReadFrame(NamedTuple):
    """A frame that a pass read from memory.

    Args:
        role: Whether the anchor holds it or the window.
        birth: Number of the frame in the stream, of several the newest.
        place: Temporal index it stood at, relative to the chunk's last frame.
    """

    role: Literal["anchor", "cached"]
    birth: int
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
    probed = _Probed(
        streamer.backbone,
        anchor=streamer.anchor,
        cache=streamer.cache,
        schedule=streamer.schedule,
        noise=streamer.noise,
    )
    for _ in range(num_chunks):
        probed.seen = []
        with torch.no_grad():
            chunk = probed.step(state)
        yield chunk, tuple(probed.seen)
        state = chunk.state


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


class _Probed(Streamer):
    """A streamer whose passes are watched."""

    seen: list[PassMass]

    def _run(
        self,
        state: StreamState,
        plan: Plan,
        noise: NoiseSource | None = None,
        scratch: Scratch | None = None,
    ) -> ChunkRun:
        del scratch
        source = self.noise if noise is None else noise
        run = _ProbedRun(self.backbone, state, plan, source, query=True)
        run.seen = self.seen
        return run


class _ProbedRun(ChunkRun):
    """Passes that are made with their keys and queries, which are then looked at."""

    seen: list[PassMass]

    def forward(
        self,
        latents_BFCHW: Tensor,
        timestep: Tensor | tuple[float, ...],
        *,
        return_kv: bool,
        reads_anchor: bool = True,
        reads_window: int | None = None,
    ) -> BackboneOutput:
        """Make the pass, and note what it attended to."""
        reads = (reads_anchor, reads_window)
        out = super().forward(
            latents_BFCHW,
            timestep,
            return_kv=True,
            reads_anchor=reads_anchor,
            reads_window=reads_window,
        )
        frames, tokens = self._frames(*reads)
        if frames:
            number = timestep[-1] if isinstance(timestep, tuple) else float(timestep.max())
            shares = self._shares(out, reads, tokens)
            self.seen.append(PassMass(self.state.chunk, number, frames, *shares))
        return out if return_kv else BackboneOutput(out.velocity_BFCHW, None, None)

    def _frames(
        self, reads_anchor: bool, reads_window: int | None
    ) -> tuple[tuple[ReadFrame, ...], list[int]]:
        parts, index = self._read(reads_anchor, reads_window)
        anchors = len(self.plan.anchor) if reads_anchor else 0
        frames: list[ReadFrame] = []
        tokens: list[int] = []
        for place, part in enumerate(parts):
            for birth in part.births:
                role: Literal["anchor", "cached"] = "anchor" if place < anchors else "cached"
                at = index[len(frames)] - self.origin
                frames.append(ReadFrame(role, birth, at))
                tokens.append(part.key_LBFTND.shape[3])
        return tuple(frames), tokens

    def _shares(
        self, out: BackboneOutput, reads: tuple[bool, int | None], tokens: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        window, (query, key) = self.window(*reads), self.plan.positions.live
        assert window is not None
        assert out.kv is not None
        assert out.query_LBFTND is not None
        count = out.query_LBFTND.shape[2]
        grid = self.backbone.token_grid(*self.state.latent_shape[1:])
        device, dim = out.query_LBFTND.device, self.backbone.head_dim
        tables = [rope_table(self._relative(p[:count]), *grid, dim, device) for p in (query, key)]
        found = []
        for layer in range(self.backbone.num_layers):
            turned = rotate(out.query_LBFTND[layer].flatten(1, 2), tables[0])
            own = rotate(out.kv.key_LBFTND[layer].flatten(1, 2), tables[1])
            context = window.key_LBSND[layer, :, : window.num_tokens].to(own.dtype)
            found.append(frame_shares(turned, torch.cat([context, own], 1), tokens))
        shares, context_N = zip(*found, strict=True)
        return torch.stack(shares).cpu(), torch.stack(context_N).cpu()


__all__ = ["PassMass", "ReadFrame", "frame_shares", "probe_attention"]
