"""The same weights, prompts, given frames and noise, streamed with several mechanisms and scored."""

# Shapes: B episodes, F frames, C colour, H W height / width in pixels.

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress

from lightning_adastate.evaluation.arms import Arm, Variation
from lightning_adastate.evaluation.pictures import write_pictures
from lightning_adastate.evaluation.swap_probe import SwapProbe
from lightning_adastate.evaluation.tables import write_csv, write_retention, write_swaps
from lightning_adastate.metrics.pan import score_reading
from lightning_adastate.metrics.pan_identity import hero_cycles
from lightning_adastate.streaming import PixelStreaming, Streamer, StreamPipeline
from lightning_adastate.weights import load_into
from lightning_adastate.worlds import PanEpisodes, PanWorld, decode_pan


def check_numbers(
    arms: Mapping[str, Variation],
    episodes: int,
    horizons: Sequence[int],
    num_given: int,
    seed: int,
) -> None:
    """Refuse what cannot be compared.

    Raises:
        ValueError: Naming the value.
    """
    if not arms:
        raise ValueError("`anchors` must name at least one arm, or `arms`")
    if episodes < 2:
        raise ValueError(f"`episodes` must be 2 or more, got {episodes}")
    if num_given < 1 or seed < 0:
        raise ValueError(
            f"`num_given` must be 1 or more and `seed` 0 or more, got {num_given} and {seed}"
        )
    if not horizons or min(horizons) < num_given + 4:
        raise ValueError(
            f"`horizons` must be {num_given + 4} frames or more, given frames included, "
            f"got {list(horizons)}"
        )


@dataclass(frozen=True)
class Compared:
    """What a comparison gave.

    Args:
        world: Where the episodes come from.
        truth: The episodes.
        arms: What every arm did, by name.
        num_given: Given frames.
    """

    world: PanWorld
    truth: PanEpisodes
    arms: dict[str, Arm]
    num_given: int

    def write(self, folder: Path) -> list[str]:
        """Write scores and pictures into ``folder``; return the files' names."""
        folder.mkdir(parents=True, exist_ok=True)
        write_csv(self.arms, folder / "scores.csv")
        names = ["scores.csv"]
        if self.world.hides:
            write_retention(self.arms, folder / "retention.csv")
            names.append("retention.csv")
        if any(arm.swap is not None for arm in self.arms.values()):
            write_swaps(self.arms, folder / "swap.csv")
            names.append("swap.csv")
        pictures = write_pictures(
            self.truth, self.arms, self.world, folder, num_given=self.num_given
        )
        return [*names, *pictures]


@torch.no_grad()
def run_arm(
    module: PixelStreaming,
    world: PanWorld,
    episodes: PanEpisodes,
    *,
    horizons: Sequence[int],
    num_given: int,
    seed: int,
    probe: SwapProbe | None = None,
    progress: Progress,
    name: str,
) -> Arm:
    """Stream one arm to the longest horizon and score it at each."""
    given = episodes.video_BFCHW[:, :num_given]
    state = module.open_stream(episodes.prompts, seed=seed, start_video_BFCHW=given)
    chunk_frames = module.streamer.schedule.chunk_frames
    num_chunks = -(-(max(horizons) - num_given) // chunk_frames)
    parts = [given]
    for made in progress.track(module.stream(state, num_chunks), num_chunks, description=name):
        parts.append(made.video_BFCHW)
    video = torch.cat(parts, dim=1)[:, : max(horizons)]
    if not bool(video.isfinite().all()):
        raise ValueError(f"the videos of arm {name!r} are not finite; look at its weights")
    reading = decode_pan(world, video)
    scores = {
        frames: score_reading(world, reading.first(frames), episodes.truth, num_given=num_given)
        for frames in horizons
    }
    longest = world.longest_hide(episodes.truth.velocity_B)
    cycles = hero_cycles(world, reading, longest) if world.hides else []
    swap = None
    if probe is not None:
        swap = probe.run(module, episodes.prompts, seed=seed, start_video_BFCHW=given, world=world)
    return Arm(video, reading, scores, cycles, swap)


def with_variation(module: PixelStreaming, varied: Variation) -> StreamPipeline:
    """Return a module that streams with what the arm names and shares everything else.

    Raises:
        ValueError: If the arm's parts or weights do not fit.
    """
    streamer = module.streamer
    backbone = streamer.backbone
    if varied.weights is not None:
        backbone = copy.deepcopy(backbone)
        load_into(backbone, varied.weights)
    varied_streamer = Streamer(
        backbone,
        anchor=streamer.anchor if varied.anchor is None else varied.anchor,
        cache=streamer.cache if varied.cache is None else varied.cache,
        schedule=streamer.schedule if varied.schedule is None else varied.schedule,
        noise=streamer.noise if varied.noise is None else varied.noise,
    )
    return StreamPipeline(
        varied_streamer.eval(),
        codec=module.codec,
        text_encoder=module.text_encoder,
        frame_size=module.frame_size,
    )


def compare(
    module: PixelStreaming,
    world: PanWorld,
    variations: Mapping[str, Variation],
    *,
    episodes: int = 64,
    horizons: Sequence[int] = (21, 126),
    num_given: int = 3,
    seed: int = 1000,
    probe: SwapProbe | None = None,
) -> Compared:
    """Stream every arm on the same episodes and score it against the exact truth.

    Args:
        module: What streams where an arm names nothing else.
        world: Where the episodes and their truth come from.
        variations: A name, and what differs from the module.
        episodes: Paired episodes per arm.
        horizons: Lengths in frames at which every stream is scored.
        num_given: Given frames, whole chunks.
        seed: Of episodes and noise.
        probe: Swaps the anchors' contents between the streams of each arm as well.

    Raises:
        ValueError: If there is nothing to compare.
    """
    if probe is not None:
        probe.check(episodes)
    check_numbers(variations, episodes, horizons, num_given, seed)
    if (world.height, world.width) != tuple(module.frame_size):
        raise ValueError(
            f"`world` is {world.height} x {world.width} pixels, `model.frame_size` is "
            f"{module.frame_size[0]} x {module.frame_size[1]}; make them the same"
        )
    modules = {name: with_variation(module, varied) for name, varied in variations.items()}
    truth = world.episodes(episodes, max(horizons), seed=seed)
    arms = {}
    with Progress(transient=True) as progress:
        for name, arm in modules.items():
            arms[name] = run_arm(
                arm,
                world,
                truth,
                horizons=horizons,
                num_given=num_given,
                seed=seed,
                probe=probe,
                progress=progress,
                name=name,
            )
    return Compared(world, truth, arms, num_given)
