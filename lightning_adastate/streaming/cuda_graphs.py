"""Passes of a full window, recorded once as CUDA graphs and replayed: one launch instead of thousands."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_adastate.types import KV, BackboneOutput

log = logging.getLogger(__name__)

Call = Callable[[Tensor], BackboneOutput]

ATTEMPTS = 2
"""Failed recordings until passes stay plain: what another thread did in the meantime need not happen again."""

capturing = threading.RLock()
"""Held while a pass is recorded, or runs for the first time, which may compile. Whoever else may wait for the
device, compile or take memory from CUDA in another thread holds it meanwhile: either would break a recording."""


class Recording(NamedTuple):
    """A recorded call.

    Args:
        replay: Run it again; it reads and writes the same memory as when it was recorded.
        output: Where it writes.
    """

    replay: Callable[[], None]
    output: BackboneOutput


class Recorder(Protocol):
    """Something that can record a call."""

    def missing(self, sample: Tensor) -> str | None:
        """Return why it cannot record calls on such tensors, or ``None`` if it can."""

    def record(self, call: Callable[[], BackboneOutput]) -> Recording:
        """Record a call that has run at least once before."""


class CudaRecorder:
    """Record CUDA graphs that share one pool of memory: they run one after the other."""

    def __init__(self) -> None:
        self.pool: tuple[int, int] | None = None

    def missing(self, sample: Tensor) -> str | None:
        """Ask for CUDA without autocast, which keeps cast weights that a graph would outlive."""
        if not sample.is_cuda:
            return f"the stream is on {sample.device.type}"
        return (
            "autocast is on; use the precision bf16-true"
            if torch.is_autocast_enabled("cuda")
            else None
        )

    def record(self, call: Callable[[], BackboneOutput]) -> Recording:
        """Capture it. The first call after it must be a replay: capturing computes nothing."""
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Only this thread is held to what a capture allows: another may be decoding the chunk before.
        capture = torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local")  # type: ignore[arg-type]
        try:
            with capture:
                output = call()
        except RuntimeError:
            self.pool = None  # what a broken recording took from it is in doubt
            raise
        return Recording(graph.replay, output)


class _Pass(NamedTuple):
    """One kind of pass: what it reads besides its latents, and how it is replayed, once it is."""

    reads: tuple[object, ...]
    latents_BFCHW: Tensor | None = None
    recording: Recording | None = None


class PassGraphs:
    """The recorded passes of one stream.

    A kind of pass runs plain the first time, is recorded the second time, and replayed from then on, as long as
    it reads the very same memory. Where recording fails it is tried once more; then passes run plain, with one
    warning.

    Args:
        recorder: What records; ``None`` records CUDA graphs.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder: Recorder = CudaRecorder() if recorder is None else recorder
        self.passes: dict[Hashable, _Pass] = {}
        self.failed = False
        self.attempts = 0

    def run(
        self, kind: Hashable, reads: tuple[object, ...], call: Call, latents_BFCHW: Tensor
    ) -> BackboneOutput:
        """Return what ``call`` gives for the latents, in memory of its own.

        Args:
            kind: What tells passes of a chunk apart.
            reads: Tensors, or holders of tensors, that it reads; another object there is other memory.
            call: The pass.
            latents_BFCHW: Its noisy frames.
        """
        if self.failed:
            return call(latents_BFCHW)
        if (reason := self.recorder.missing(latents_BFCHW)) is not None:
            return self._give_up(reason, call, latents_BFCHW)
        known = self.passes.get(kind)
        if known is None or not _same(known.reads, reads):
            self.passes[kind] = _Pass(reads)
            with capturing:
                return call(latents_BFCHW)
        if known.recording is None:
            latents = latents_BFCHW.clone()
            try:
                with capturing:
                    recording = self.recorder.record(lambda: call(latents))
            except RuntimeError as error:
                self.attempts += 1
                if self.attempts < ATTEMPTS:
                    return call(latents_BFCHW)
                reason = (str(error).splitlines() or [""])[0]
                return self._give_up(reason, call, latents_BFCHW)
            known = self.passes[kind] = _Pass(reads, latents, recording)
        assert known.latents_BFCHW is not None
        assert known.recording is not None
        known.latents_BFCHW.copy_(latents_BFCHW)
        known.recording.replay()
        return _own(known.recording.output)

    def _give_up(self, reason: str, call: Call, latents_BFCHW: Tensor) -> BackboneOutput:
        self.failed = True
        self.passes.clear()
        log.warning("passes are not recorded as CUDA graphs (%s); they run plain", reason)
        return call(latents_BFCHW)


def _same(ours: tuple[object, ...], theirs: tuple[object, ...]) -> bool:
    return len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))


def _own(output: BackboneOutput) -> BackboneOutput:
    """Copy an output out of the memory that the next replay writes to."""
    kv, query = output.kv, output.query_LBFTND
    return BackboneOutput(
        output.velocity_BFCHW.clone(),
        None if kv is None else _own_kv(kv),
        None if query is None else query.clone(),
    )


def _own_kv(kv: KV) -> KV:
    return replace(kv, key_LBFTND=kv.key_LBFTND.clone(), value_LBFTND=kv.value_LBFTND.clone())
