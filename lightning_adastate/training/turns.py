"""Whose turn a batch is: the generator's, the critic's, or both's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

CriticPrompts = Literal["same", "fresh"]
"""What the critic sees where the generator has learnt: the generator's batch, or the next one."""


class Turn(NamedTuple):
    """Who learns on a batch."""

    generator: bool
    critic: bool


@dataclass(frozen=True)
class Turns:
    """The order of a two-player training, as a pure function of the batch's number, so that a resumed run goes on in it.

    Args:
        generator_interval: Critic steps per generator step; the generator's comes first.
        critic_warmup: Critic steps before the first of these.
        accumulate: Batches per optimiser step.
        critic_prompts: ``same`` lets the critic learn on the generator's batch too, ``fresh`` on later ones alone.
    """

    generator_interval: int
    critic_warmup: int
    accumulate: int
    critic_prompts: CriticPrompts

    @property
    def own_batches(self) -> int:
        """Count the batches of a round that the generator has for itself."""
        return self.accumulate if self.critic_prompts == "fresh" else 0

    @property
    def round_batches(self) -> int:
        """Count the batches of a round: one generator step and its critic steps."""
        return self.own_batches + self.generator_interval * self.accumulate

    def of(self, batch: int) -> Turn:
        """Return who learns on batch number ``batch``, from 0."""
        done = batch - self.critic_warmup * self.accumulate
        if done < 0:
            return Turn(generator=False, critic=True)
        place = done % self.round_batches
        return Turn(generator=place < self.accumulate, critic=place >= self.own_batches)

    def busiest_batches(self, rounds: int) -> Sequence[int]:
        """Name the last batch of both players' first step in each of the first rounds."""
        begin = self.critic_warmup * self.accumulate
        starts = [begin + self.round_batches * index for index in range(rounds)]
        ends = sorted({self.accumulate, self.accumulate + self.own_batches})
        return [start + end - 1 for start in starts for end in ends]
