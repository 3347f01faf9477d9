"""From prompts to pixels in plain PyTorch: open a stream, stream decoded chunks, embed prompts, re-encode."""

# Shapes: B batch, F frames, C channels, H W height / width (of pixels in video_*, of latents elsewhere), S text tokens, D text width.

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lightning_adastate.codecs import Codec
from lightning_adastate.streaming.observer import StepObserver
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.text import TextEncoder
from lightning_adastate.types import Chunk, Event, StreamState


@dataclass(frozen=True)
class VideoChunk:
    """One chunk as latents and as pixels ``[B, F, 3, H, W]`` in [0, 1], and the state after it."""

    chunk: Chunk
    video_BFCHW: Tensor
    state: StreamState


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Have a module in evaluation mode for a while, as streaming wants it; every part gets its own mode back."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes.items():
            each.training = mode


class PixelStreaming:
    """What streams pixels: mixed into whatever has a streamer, a codec and a text encoder.

    ``StreamPipeline`` is such a thing and nothing else; training stages are, too. Every step is a method, so
    that a subclass can change one.
    """

    codec: Codec
    text_encoder: TextEncoder
    frame_size: tuple[int, int]

    @property
    @abstractmethod
    def streamer(self) -> Streamer:
        """Return what generates."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Return where it generates."""

    @property
    def chunk_video_frames(self) -> int:
        """Return how many pixel frames a chunk shows that is not the stream's first."""
        return self.codec.temporal_stride * self.streamer.schedule.chunk_frames

    @torch.no_grad()
    def open_stream(
        self,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        stream_ids: Sequence[int] | None = None,
        start_video_BFCHW: Tensor | None = None,
        timeline: Sequence[Event] = (),
        later_prompts: Sequence[Sequence[str]] = (),
    ) -> StreamState:
        """Return the state of new streams, one per prompt, in lock-step.

        Args:
            prompts: The first prompt of each stream.
            seed: Seed of the noise.
            stream_ids: Identity of each stream; ``None`` is 0, 1, 2, ...
            start_video_BFCHW: Pixels the streams continue, ``[B, F, 3, H, W]`` in [0, 1].
            timeline: Prompt switches, flushes and cuts.
            later_prompts: Prompts 1, 2, ... of the timeline, one per stream each.

        Raises:
            ValueError: If prompts are no list, or what ``Streamer.start`` refuses.
        """
        streamer = self.streamer
        state = streamer.start(
            self.encode_text(prompts),
            latent_shape=self.codec.latent_shape(*self.frame_size),
            seed=seed,
            stream_ids=stream_ids,
            timeline=timeline,
            later_texts=[self.encode_text(later) for later in later_prompts],
        )
        state = replace(state, codec=self.codec.empty())
        if start_video_BFCHW is None:
            return state
        latents = self.codec.encode(start_video_BFCHW.to(self.device))
        _, codec = self.codec.decode(latents, state.codec)
        return replace(streamer.prefill(state, latents), codec=codec)

    @torch.no_grad()
    def stream(
        self,
        state: StreamState,
        num_chunks: int | None = None,
        *,
        observer: StepObserver | None = None,
    ) -> Iterator[VideoChunk]:
        """Yield decoded chunks, endlessly if ``num_chunks`` is ``None``; memory does not grow.

        Args:
            state: Where it begins.
            num_chunks: How many chunks.
            observer: Told of every layout and pass.
        """
        buffers = self.streamer.new_buffers()
        done = 0
        while num_chunks is None or done < num_chunks:
            chunk = self.streamer.step(state, buffers=buffers, observer=observer)
            video, codec = self.codec.decode(chunk.latents_BFCHW, state.codec)
            state = self.reencode(replace(chunk.state, codec=codec), video)
            yield VideoChunk(chunk, video, state)
            done += 1

    @torch.no_grad()
    def decode_state(self, chunk: Chunk) -> Tensor | None:
        """Return pictures of a chunk's hidden state, ``[B, F, 3, H, W]`` in [0, 1], or ``None`` where none was live.

        It is never rendered in a stream. Here each of its frames is decoded as a picture of its own, as the first
        frame of a clip is; the codec's memory of the content is not touched.

        Args:
            chunk: What ``Streamer.step`` made.
        """
        hidden_BFCHW = chunk.state_latents_BFCHW
        if hidden_BFCHW is None:
            return None
        alone = hidden_BFCHW.flatten(0, 1)[:, None]
        video, _ = self.codec.decode(alone, self.codec.empty())
        pictures: Tensor = video[:, 0].unflatten(0, hidden_BFCHW.shape[:2])
        return pictures

    def reencode(self, state: StreamState, video_BFCHW: Tensor) -> StreamState:
        """Make the first latent that the coming event encodes anew an image latent, if it says so.

        The first latent of a clip stands for one picture, so a restart that begins with a later one would
        begin with what the model has never seen there: decode, encode its last picture (CausVid).

        Args:
            state: The state after a chunk.
            video_BFCHW: That chunk's pixels.

        Raises:
            ValueError: If the event reaches back further than the chunk.
        """
        events = [e for e in state.timeline if e.reencode_first and e.opens(state.chunk)]
        if not events or state.recent_BFCHW is None:
            return state
        count = events[0].recache_frames
        picture = 1 + self.codec.temporal_stride * (count - 1)
        if count < 1 or picture > video_BFCHW.shape[1]:
            raise ValueError(
                f"`reencode_first` needs `recache_frames` of 1 up to a chunk's frames, got {count}"
            )
        first = self.codec.encode(video_BFCHW[:, -picture][:, None].float())
        overlap = torch.cat(
            [first, state.recent_BFCHW[:, state.recent_BFCHW.shape[1] - count + 1 :]], 1
        )
        _, codec = self.codec.decode(overlap, self.codec.empty())
        recent = torch.cat([state.recent_BFCHW[:, :-count], overlap], dim=1)
        return replace(state, recent_BFCHW=recent, codec=codec)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Return text embeddings ``[B, S, D]`` on the streamer's device."""
        if isinstance(prompts, str):
            raise ValueError(  # noqa: TRY004, as every other mistake here
                f"prompts are a list, one per stream; write [{prompts!r}]"
            )
        embedded: Tensor = self.text_encoder(list(prompts))
        return embedded.to(self.device)


class StreamPipeline(nn.Module, PixelStreaming):
    """A streamer, a codec and a text encoder: prompts to pixels, without Lightning.

    Args:
        streamer: What generates latents.
        codec: Latents to pixels and back.
        text_encoder: Prompts to embeddings.
        frame_size: Height and width of the video in pixels.
    """

    def __init__(
        self,
        streamer: Streamer,
        *,
        codec: Codec,
        text_encoder: TextEncoder,
        frame_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.generator = streamer
        self.codec = codec
        self.text_encoder = text_encoder
        self.frame_size = frame_size

    @property
    def streamer(self) -> Streamer:
        """Return what generates."""
        return self.generator

    @property
    def device(self) -> torch.device:
        """Return the device of the streamer's weights."""
        return next(self.generator.parameters()).device
