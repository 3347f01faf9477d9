"""One stream of a live session: what it was, what changes it, and its next chunk."""

# Shapes: B batch, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_adastate.analysis.attention import AttentionProbe, PassMass
from lightning_adastate.generation.timeline import Change
from lightning_adastate.streaming.context import ChunkContext, PassReads
from lightning_adastate.streaming.pipeline import PixelStreaming, VideoChunk
from lightning_adastate.types import BackboneOutput, StreamState

LivePolicy = Literal["keep", "recache", "rebase", "drop", "flush", "cut"]
"""What may happen to the cache while a stream runs, as `generation.timeline` has it."""

MAX_WAITING = 8
"""Changes that may wait for one chunk."""


@dataclass(frozen=True)
class LaneState:
    """Where a stream stands. Immutable: keeping it is saving it.

    Args:
        anchor: Name of the anchor it streams with.
        prompt: The prompt in force from the next chunk on.
        state: The stream's own state.
    """

    anchor: str
    prompt: str
    state: StreamState


class LaneChunk(NamedTuple):
    """One chunk of one lane, on the CPU.

    Args:
        number: Which chunk of the stream it is.
        video_FCHW: Its pixels in [0, 1].
        hidden_CHW: The hidden state as a picture, or ``None`` where none was denoised.
        attention: What the first pass attended to, or ``None`` where it was not looked at.
        seconds: What it took, decoding included.
    """

    number: int
    video_FCHW: Tensor
    hidden_CHW: Tensor | None
    attention: PassMass | None
    seconds: float


class FirstPassProbe(AttentionProbe):
    """Measure the first pass of a chunk, and of those chunks only before which ``look`` was set."""

    def __init__(self) -> None:
        super().__init__()
        self.needs_kv = False

    def look(self, *, wanted: bool) -> None:
        """Say whether the coming chunk is measured."""
        self.needs_kv = wanted

    def on_pass(
        self,
        context: ChunkContext,
        reads: PassReads,
        timesteps: tuple[float, ...],
        output: BackboneOutput,
    ) -> None:
        """Note the first pass that reads anything."""
        if self.needs_kv and not self._seen:
            super().on_pass(context, reads, timesteps, output)


class Lane:
    """Make the chunks of one stream, one when it is asked for.

    Args:
        module: What streams, with the lane's anchor.
        at: Where it begins.
    """

    def __init__(self, module: PixelStreaming, at: LaneState) -> None:
        self.module = module
        self._probe = FirstPassProbe()
        self._at = at
        self._stand(at)

    @property
    def at(self) -> LaneState:
        """Where it stands."""
        return self._at

    @property
    def has_hidden(self) -> bool:
        """Whether its anchor has a hidden state to show."""
        return self.module.streamer.anchor.num_state_frames > 0

    def step(self, *, look: bool = False) -> LaneChunk:
        """Make the next chunk.

        Args:
            look: Also measure attention.

        Raises:
            ValueError: If it is not finite. The lane then stands where it stood.
        """
        begin = time.perf_counter()
        self._probe.look(wanted=look)
        made = next(self._stream)
        video = made.video_BFCHW[0].detach().float().cpu()
        if not bool(video.isfinite().all()):
            raise ValueError(f"the pixels of chunk {made.chunk.index} are not finite")
        hidden = self._hidden(made)
        seen = self._probe.collect()
        self._at = replace(self._at, state=made.state)
        seconds = time.perf_counter() - begin
        return LaneChunk(made.chunk.index, video, hidden, seen[0] if seen else None, seconds)

    def change(
        self, policy: LivePolicy, *, prompt: str | None = None, frames: int | None = None
    ) -> None:
        """Let something happen at the start of the next chunk.

        Args:
            policy: What happens to the cache; see ``Change``.
            prompt: The new prompt, taken as text whatever it says; ``None`` keeps the present one.
            frames: Frames encoded anew, or left by a flush or cut; ``None`` is the policy's own number.

        Raises:
            ValueError: If the prompt cannot be encoded, too much waits already, or there is nothing to change yet.
        """
        if prompt is not None and (problem := self.module.text_encoder.problem(prompt)):
            raise ValueError(f"the prompt {problem}")
        state = changed(self.module, self._at.state, policy, prompt=prompt, frames=frames)
        self._stand(LaneState(self._at.anchor, prompt or self._at.prompt, state))

    @torch.no_grad()
    def _hidden(self, made: VideoChunk) -> Tensor | None:
        latents = made.chunk.state_latents_BFCHW
        if latents is None:
            return None
        codec = self.module.codec
        return codec.decode(latents[:, -1:], codec.empty())[0][0, -1].float().cpu()

    def _stand(self, at: LaneState) -> None:
        self._at = replace(at, state=self.module.streamer.resume(at.state))
        self._stream: Iterator[VideoChunk] = self.module.stream(
            self._at.state, observer=self._probe
        )


@torch.no_grad()
def changed(
    module: PixelStreaming,
    state: StreamState,
    policy: LivePolicy,
    *,
    prompt: str | None = None,
    frames: int | None = None,
) -> StreamState:
    """Return a stream whose next chunk begins with a change; what has happened before is forgotten.

    So a state does not grow, however often the prompt changes.

    Raises:
        ValueError: If too much waits already, or there is nothing to flush or cut yet.
    """
    change = Change(max(1, state.chunk), prompt, policy, frames)
    waiting = [e for e in state.timeline if e.every is not None or e.chunk >= state.chunk]
    if len(waiting) >= MAX_WAITING:
        raise ValueError(f"{len(waiting)} changes wait for chunk {state.chunk} already")
    if not state.chunk and prompt is None:
        raise ValueError("the stream has not begun, there is nothing to flush or cut")
    numbers = sorted({state.prompt, *(e.prompt for e in waiting if e.prompt is not None)})
    place = {number: index for index, number in enumerate(numbers)}
    texts = state.texts_PBSD[numbers]
    waiting = [replace(e, prompt=None if e.prompt is None else place[e.prompt]) for e in waiting]
    if prompt is not None:
        new = module.encode_text([prompt] * state.batch_size)[None]
        texts = torch.cat([texts, new.to(texts)])
    if not state.chunk:  # nothing is cached: there is no event to make
        return replace(state, texts_PBSD=texts[-1:], prompt=0, timeline=())
    number = None if prompt is None else len(texts) - 1
    timeline = (*waiting, change.event(number))
    return replace(state, texts_PBSD=texts, prompt=place[state.prompt], timeline=timeline)


def with_anchor(lane: LaneState, name: str, modules: Mapping[str, PixelStreaming]) -> LaneState:
    """Return a lane that goes on with an anchor that begins empty; window and noise stay as they are.

    Args:
        lane: Where it stands.
        name: The anchor.
        modules: What streams, by the name of its anchor.

    Raises:
        ValueError: If there is no such anchor.
    """
    if name not in modules:
        raise ValueError(f"there is no anchor {name!r}; it is one of {', '.join(modules)}")
    empty = modules[name].streamer.anchor.empty()
    return replace(lane, anchor=name, state=replace(lane.state, anchor=empty))
