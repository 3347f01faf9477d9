"""Streams that are warmed up on their own and then timed in turns, on any device."""

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from bound import MatmulRate, milliseconds
from models import CHUNK, Size, Variant
from rich.progress import track
from rows import PIXELS, PeakMemory, Row, device_name, module_bytes
from torch import Tensor

from lightning_adastate.backbones import WanTransformer, wan_block
from lightning_adastate.codecs import Codec
from lightning_adastate.streaming.streamer import Streamer
from lightning_adastate.types import StreamState

FIRSTS = 3


class Setup(NamedTuple):
    """What all measurements of a run share."""

    name: str
    size: Size
    model: WanTransformer
    text_BSD: Tensor
    dtype: str
    rate: MatmulRate
    chunks: int

    @property
    def device(self) -> torch.device:
        return self.text_BSD.device

    def start(self, streamer: Streamer) -> StreamState:
        """Begin a stream."""
        return streamer.start(self.text_BSD, latent_shape=self.size.latent)

    def row(self, scope: str, path: str, ms: float, **more: object) -> Row:
        """Return a row of this network."""
        fixed = (self.name, scope, path, device_name(self.device), self.dtype)
        streams = len(self.text_BSD)
        return Row(*fixed, streams=streams, ms=ms, frames=CHUNK * PIXELS, **more)


class Warnings(logging.Handler):
    """Collect what the package warns of, such as that it falls back to plain passes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(record.getMessage())

    def __enter__(self) -> "Warnings":
        logging.getLogger("lightning_adastate").addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger("lightning_adastate").removeHandler(self)


class Case:
    """One kind of stream: warmed up on its own, then timed in turns with others."""

    def __init__(
        self,
        setup: Setup,
        variant: Variant,
        begin: Callable[[], Iterator[object]],
        warm: int,
        decoder_bytes: int = 0,
    ) -> None:
        self.setup, self.variant = setup, variant
        variant.choose(setup.model)
        held = module_bytes(setup.model) + decoder_bytes
        with Warnings() as warnings, PeakMemory(setup.device, held) as memory:
            self.stream = begin()
            for _ in track(range(warm), f"warm-up, {variant.mode}", transient=True):
                next(self.stream)
        self.peak_mb = memory.megabytes
        compiled = variant.mode.startswith("compiled")
        is_plain = bool(warnings.found) or (compiled and wan_block.compiled_block().failed)
        self.path = f"{variant.mode} (ran plain)" if is_plain else variant.mode
        self.first_ms = statistics.median(
            milliseconds(lambda: next(begin()), setup.device) for _ in range(FIRSTS)
        )
        self.times: list[float] = []

    def turn(self) -> None:
        """Time one chunk more."""
        self.variant.choose(self.setup.model)
        self.times.append(milliseconds(lambda: next(self.stream), self.setup.device))


def in_turns(setup: Setup, cases: Mapping[object, Case], title: str) -> None:
    """Time a chunk of each, and the device, as often as asked for."""
    for _ in track(range(setup.chunks), title, transient=True):
        setup.rate.sample()
        for case in cases.values():
            case.turn()


def warm_chunks(cached_frames: int) -> int:
    """Return after how many chunks all is steady: a full window, compiled or recorded."""
    return cached_frames // CHUNK + 5


class Shown:
    """A network and a decoder, as `stream_overlapped` wants them."""

    def __init__(self, streamer: Streamer, codec: Codec, device: torch.device) -> None:
        self.streamer, self.codec, self.device = streamer, codec, device

    def reencode(self, state: StreamState, video_BFCHW: Tensor) -> StreamState:
        """Nothing is encoded anew here."""
        return state

    def stream(self, state: StreamState) -> Iterator[Tensor]:
        """Yield the pixels of each chunk, denoised and decoded one after the other."""
        memory = self.codec.empty()
        for chunk in self.streamer.stream(state):
            video, memory = self.codec.decode(chunk.latents_BFCHW, memory)
            yield video
