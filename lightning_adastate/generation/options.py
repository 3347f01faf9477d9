"""What to generate, and where to put it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning_adastate.generation.clock import seconds_of
from lightning_adastate.generation.saving import SavePolicy
from lightning_adastate.generation.timeline import Change
from lightning_adastate.media.video import Quality
from lightning_adastate.streaming.speed import Decode, Speed

AUTO_OUTPUT = "outputs/generated.mp4"
"""Where a video goes that has no name: there, or beside it under the next free number."""

DEFAULT_CHUNKS = 7


class Generation:
    """What to generate, and where to put it.

    An output that was begun and not finished is continued by the same settings; with others it is refused, as is
    one that is finished.

    Args:
        prompts: A prompt, or a text file with one per line. Several prompts are several streams in
            lock-step, and every file name gets the stream's number (name-00.mp4). With ``state_in``
            they replace the prompts from here on; ``None`` keeps them.
        num_chunks: How many chunks; any positive number. ``None`` is what ``duration`` says, or 7.
        duration: How long the video is to be, instead of ``num_chunks``: 90s, 2min, 1h; the fewest chunks that
            last so long.
        seed: Seed of the noise. ``None`` is 0, or the state's own with ``state_in``.
        weights: Backbone weights instead of the configuration's: a .safetensors file, a training
            checkpoint, or a name shipped with the package.
        output: The mp4 to write, chunk by chunk; it can be watched while it grows. ``auto`` is
            outputs/generated.mp4, or the next free number beside it. ``None``: no video.
        state_video: Also write this mp4: the video, and right of it the hidden state, decoded; grey while there
            is none. It needs an anchor with a hidden state.
        latents: Also write the latents ``[1, F, C, H, W]`` to this .safetensors file.
        state_in: Continue the stream saved here.
        state_out: Save the stream after the last chunk here, to go on later.
        state_every: Save what it takes to go on after so many chunks, while the stream runs. ``auto``: as often as
            costs less than 1 % of its time.
        overwrite: Start anew, in place of an output that is there, finished or not.
        start: Image or clip that the streams continue; its last frames that fill whole chunks count.
        upscale: Repeat every pixel so many times; ``None`` is enough for a person to see it.
        fps: Frames per second of the video.
        quality: ``preview`` plays everywhere, ``lossless`` is bit-exact RGB.
        speed: ``auto`` takes every fast path that the device can and the recipe does not forbid, and says on a
            card which ones; ``plain`` takes none: eager, PyTorch's attention, one thing after the other.
        decode: ``in_turn`` denoises a chunk when the one before it is written. ``overlapped`` denoises it in the
            meantime, in a thread: the same files, for the memory of both at once. ``auto`` leaves it to ``speed``.
        timeline: Prompt switches, flushes, cuts and restarts, a list of ``Change``. With ``state_in`` they
            come on top of what the saved stream has still to come.

    Raises:
        ValueError: If a number is not positive, a name has the wrong ending or is given twice, or
            nothing is written.
    """

    def __init__(
        self,
        prompts: str | None = None,
        *,
        num_chunks: int | None = None,
        duration: str | float | None = None,
        seed: int | None = None,
        weights: str | None = None,
        output: str | None = "auto",
        state_video: str | None = None,
        latents: str | None = None,
        state_in: str | None = None,
        state_out: str | None = None,
        state_every: int | Literal["auto"] = "auto",
        overwrite: bool = False,
        start: str | None = None,
        upscale: int | None = None,
        fps: int = 16,
        quality: Quality = "preview",
        speed: Speed = "auto",
        decode: Decode = "auto",
        timeline: list[Change] | None = None,
    ) -> None:
        for name, number in (("num_chunks", num_chunks), ("upscale", upscale), ("fps", fps)):
            if number is not None and number < 1:
                raise ValueError(f"`generation.{name}` must be 1 or more, got {number}")
        if num_chunks is not None and duration is not None:
            raise ValueError(
                f"give `generation.num_chunks` or `generation.duration`, not both, got {num_chunks} "
                f"and {duration!r}"
            )
        SavePolicy(state_every)
        self.seconds = None if duration is None else seconds_of(duration, "generation.duration")
        _check_names(output, state_video, latents, state_in, state_out, start)
        self.prompts = prompts
        self.num_chunks = num_chunks
        self.seed = seed
        self.weights = weights
        self.output = output
        self.state_video = state_video
        self.latents = latents
        self.state_in = state_in
        self.state_out = state_out
        self.state_every: int | Literal["auto"] = state_every
        self.overwrite = overwrite
        self.start = start
        self.upscale = upscale
        self.fps = fps
        self.quality: Quality = quality
        self.speed: Speed = speed
        self.decode: Decode = decode
        self.timeline = [] if timeline is None else timeline


def _check_names(
    output: str | None,
    state_video: str | None,
    latents: str | None,
    state_in: str | None,
    state_out: str | None,
    start: str | None,
) -> None:
    """Refuse names that do not fit what is written, or each other."""
    for name, path, ending in (
        ("output", None if output == "auto" else output, ".mp4"),
        ("state_video", state_video, ".mp4"),
        ("latents", latents, ".safetensors"),
        ("state_out", state_out, ".safetensors"),
    ):
        if path is not None and Path(path).suffix != ending:
            raise ValueError(f"`generation.{name}` must end in {ending}, got {path!r}")
    if all(name is None for name in (output, state_video, latents, state_out)):
        raise ValueError(
            "there is nothing to write: give `generation.output`, `.state_video`, `.latents` or `.state_out`"
        )
    named = [
        Path(path).resolve()
        for path in (output, state_video, latents, state_in, state_out, start)
        if path
    ]
    if len(set(named)) < len(named):
        raise ValueError(
            "`generation.output`, `.state_video`, `.latents`, `.state_in`, `.state_out` and `.start` must be different "
            "files"
        )
    if start is not None and state_in is not None:
        raise ValueError("give `generation.start` or `generation.state_in`, not both")
