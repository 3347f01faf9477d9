"""Where a live stream begins: from a prompt alone, or in a world whose truth is known."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_adastate.serve.lane import LaneState
from lightning_adastate.serve.meters import Meter, PanMeter
from lightning_adastate.streaming.pipeline import PixelStreaming
from lightning_adastate.worlds import PanWorld


class Opening(ABC):
    """Begin streams. The same seed and prompt begin the same stream, with whatever anchor.

    Args:
        prompt: The first prompt; ``None`` is the opening's own.
    """

    def __init__(self, prompt: str | None = None) -> None:
        self.prompt = prompt

    @abstractmethod
    def begin(self, module: PixelStreaming, anchor: str, seed: int) -> LaneState:
        """Return a lane that has made nothing yet.

        Args:
            module: What streams.
            anchor: Name of its anchor.
            seed: Seed of the noise, and of all that is given.
        """

    @abstractmethod
    def meter(self, seed: int) -> Meter:
        """Return what measures a stream of that seed."""

    @property
    @abstractmethod
    def examples(self) -> list[str]:
        """Prompts worth trying."""


class PromptOpening(Opening):
    """Begin from a prompt.

    Args:
        prompt: It.
    """

    def __init__(self, prompt: str) -> None:
        super().__init__(prompt)
        self.text = prompt

    def begin(self, module: PixelStreaming, anchor: str, seed: int) -> LaneState:
        """Return a lane that has made nothing yet."""
        return LaneState(anchor, self.text, module.open_stream([self.text], seed=seed))

    def meter(self, seed: int) -> Meter:
        """Return what measures any video."""
        del seed
        return Meter()

    @property
    def examples(self) -> list[str]:
        """The prompt it began with."""
        return [self.text]


class WorldOpening(Opening):
    """Begin with the first frames of an episode of PanWorld, so that place and hero are known.

    Args:
        world: Where it plays.
        prompt: Instead of the episode's own.
        num_given: Given frames, whole chunks.
    """

    def __init__(self, world: PanWorld, prompt: str | None = None, *, num_given: int = 3) -> None:
        super().__init__(prompt)
        self.world = world
        self.num_given = num_given

    def begin(self, module: PixelStreaming, anchor: str, seed: int) -> LaneState:
        """Return a lane that has made nothing beyond the given frames."""
        episode = self.world.episodes(1, self.num_given, seed=seed)
        prompt = self.prompt or episode.prompts[0]
        given = episode.video_BFCHW[:, : self.num_given]
        return LaneState(
            anchor, prompt, module.open_stream([prompt], seed=seed, start_video_BFCHW=given)
        )

    def meter(self, seed: int) -> Meter:
        """Return what knows the episode's truth."""
        truth = self.world.sample([0], 1, seed=seed)
        return PanMeter(self.world, truth.color_B3[0])

    @property
    def examples(self) -> list[str]:
        """All prompts of the world."""
        return [self.world.prompt(velocity) for velocity in self.world.velocities]
