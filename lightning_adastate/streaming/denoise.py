"""The denoise passes of one chunk, and of the chunks ahead that share them."""

# Shapes: B batch, F frames, C channels, H W latent height / width.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_adastate.flow import add_noise, velocity_to_x0, x0_to_velocity
from lightning_adastate.schedules.base import AfterExit, Level, Pass
from lightning_adastate.streaming.context import ChunkContext
from lightning_adastate.types import KV, BackboneOutput


class Taught(NamedTuple):
    """The true content of a chunk in teacher forcing.

    Every pass sees it at the pass's own noise level, whatever the pass before took it for, and it is what is
    committed. What is hidden is not taught: it goes on from its own x0.

    Args:
        content_BFCHW: Clean content latents ``[B, F, C, H, W]``.
        context_sigma_B: Noise put on the content before the clean pass, which stays at its timestep;
            ``None`` is none.
    """

    content_BFCHW: Tensor
    context_sigma_B: Tensor | None = None

    def past(self, x0_BFCHW: Tensor, context: ChunkContext, step: int) -> Tensor:
        """Return committed frames as the clean pass sees them: content with ``step``'s noise, state frames without."""
        if self.context_sigma_B is None:
            return x0_BFCHW
        count = context.plan.num_state
        noise = context.draw(step, "content", context.plan.num_content)
        content = add_noise(x0_BFCHW[:, count:], noise, self.context_sigma_B)
        return torch.cat([x0_BFCHW[:, :count], content], dim=1)


class Denoised(NamedTuple):
    """What the denoise passes left.

    Args:
        exit_BFCHW: x0 of the chunk's own live frames at the exit pass, with its graph; state frames first.
        final_BFCHW: The same after the last pass that ran: what is committed.
        ahead_BFCHW: x0 of the frames behind the chunk at the exit pass, or ``None``.
        pending_BFCHW: Those frames, noised to their next levels, or ``None``.
        output: Keys, values and queries of the pass that is to be kept, or ``None``.
    """

    exit_BFCHW: Tensor
    final_BFCHW: Tensor
    ahead_BFCHW: Tensor | None
    pending_BFCHW: Tensor | None
    output: BackboneOutput | None


def denoise(
    context: ChunkContext,
    passes: Sequence[Pass],
    given_BFCHW: Tensor | None,
    *,
    taught_BFCHW: Tensor | None = None,
    exit_step: int | None = None,
    after_exit: AfterExit = "commit",
    keep_exit_kv: bool = False,
) -> Denoised:
    """Run the denoise passes. Only the exit pass gets a graph.

    Args:
        context: The chunk.
        passes: Its denoise passes; none leaves the frames as they are given.
        given_BFCHW: Clean content of the chunk; only what is hidden is then denoised.
        taught_BFCHW: True content, in teacher forcing.
        exit_step: The pass whose x0 is the chunk; ``None`` is the last.
        after_exit: Whether the later passes run.
        keep_exit_kv: Keep keys and values of the exit pass, with their graph.
    """
    exit_index = len(passes) - 1 if exit_step is None else min(exit_step, len(passes) - 1)
    stop = len(passes) if after_exit == "finish" else exit_index + 1
    if taught_BFCHW is None:
        start = 0
        own, free = context.first_latents(given_BFCHW)
        blocks = [own, *context.pending_blocks()] if passes else [own]
    else:
        start = 0 if context.plan.num_state else exit_index
        blocks = [_taught_latents(context, passes, start, taught_BFCHW)]
        free = (1.0,) * blocks[0].shape[1]
    clean, exit_x0, output = list(blocks), list(blocks), None
    for index in range(start, stop):
        denoise_pass = passes[index]
        first = len(blocks) - 1
        blocks += [context.draw_ahead(i, 0) for i in range(first, len(denoise_pass.ahead))]
        leaves = index == exit_index
        keep = denoise_pass.commit or (leaves and keep_exit_kv)
        with torch.set_grad_enabled(context.grad and leaves):
            clean, velocities, out = _forward(context, denoise_pass, blocks, free, keep)
        if leaves:
            exit_x0 = list(clean)
        if taught_BFCHW is not None:
            clean[0], velocities[0] = _corrected(
                denoise_pass, blocks[0], clean[0], velocities[0], taught_BFCHW
            )
        if keep:
            output = out
        if index + 1 < stop or denoise_pass.ahead:
            with torch.no_grad():
                blocks = _renoise(context, index, denoise_pass, clean, velocities, free)
    return Denoised(
        exit_BFCHW=exit_x0[0],
        final_BFCHW=clean[0],
        ahead_BFCHW=_join(exit_x0[1:]),
        pending_BFCHW=_join(blocks[1:]),
        output=output,
    )


def _forward(
    context: ChunkContext,
    denoise_pass: Pass,
    blocks: Sequence[Tensor],
    free: tuple[float, ...],
    keep: bool,
) -> tuple[list[Tensor], list[Tensor], BackboneOutput]:
    """Return x0 and velocity of every block, and keys, values and queries of the chunk's own frames."""
    live = blocks[0] if len(blocks) == 1 else torch.cat(list(blocks), dim=1)
    out = context.forward(
        live,
        _per_frame(
            free, denoise_pass.timestep, [level.timestep for level in denoise_pass.ahead], blocks
        ),
        return_kv=keep,
        reads_anchor=denoise_pass.reads_anchor,
        reads_window=denoise_pass.reads_window,
    )
    velocity = out.velocity_BFCHW.to(live.dtype)
    sigma = _per_frame(
        free, denoise_pass.sigma, [level.sigma for level in denoise_pass.ahead], blocks
    )
    sizes = [block.shape[1] for block in blocks]
    x0 = velocity_to_x0(velocity, live, context.per_frame(sigma, live))
    own = sizes[0]
    kv: KV | None = None if out.kv is None else out.kv.frames(0, own)
    query = None if out.query_LBFTND is None else out.query_LBFTND[:, :, :own]
    cached_output = BackboneOutput(velocity, kv, query)
    return list(x0.split(sizes, dim=1)), list(velocity.split(sizes, dim=1)), cached_output


def _taught_latents(
    context: ChunkContext, passes: Sequence[Pass], start: int, taught: Tensor
) -> Tensor:
    """Return the live frames before pass ``start``: state frames are noise, content is true at the pass's level.

    Where nothing is hidden no earlier pass leaves a trace, so teacher forcing begins at the exit pass.
    """
    euler = start > 0 and passes[start - 1].sampler == "euler"
    noise = context.draw_live(0 if euler else start)
    count = context.plan.num_state
    content = add_noise(taught, noise[:, count:], passes[start].sigma)
    return torch.cat([noise[:, :count], content], dim=1)


def _corrected(
    denoise_pass: Pass, live: Tensor, x0: Tensor, velocity: Tensor, taught: Tensor
) -> tuple[Tensor, Tensor]:
    """Return x0 and velocity of the live frames with the content's true ones put in."""
    count = x0.shape[1] - taught.shape[1]
    true_velocity = x0_to_velocity(taught, live[:, count:], denoise_pass.sigma)
    return (
        torch.cat([x0[:, :count], taught], dim=1),
        torch.cat([velocity[:, :count], true_velocity], dim=1),
    )


def _renoise(
    context: ChunkContext,
    index: int,
    denoise_pass: Pass,
    clean: Sequence[Tensor],
    velocities: Sequence[Tensor],
    free: tuple[float, ...],
) -> list[Tensor]:
    """Noise every block to its next level; the chunk's own, if it has none, stays clean."""
    blocks = [clean[0]]
    if denoise_pass.next_sigma is not None:
        euler = denoise_pass.sampler == "euler"
        fresh = clean[0] + velocities[0] if euler else context.draw_live(index + 1)
        sigma = _per_frame(free, denoise_pass.next_sigma, [], clean[:1])
        blocks = [add_noise(clean[0], fresh, context.per_frame(sigma, fresh))]
    for place, (level, x0) in enumerate(zip(denoise_pass.ahead, clean[1:], strict=True)):
        fresh = context.draw_ahead(place, level.step + 1)
        blocks.append(add_noise(x0, fresh, level.next_sigma))
    return blocks


def _per_frame(
    free: tuple[float, ...], own: float, ahead: Sequence[float], blocks: Sequence[Tensor]
) -> tuple[float, ...]:
    """Spread one number per block over its frames; given frames get 0."""
    numbers = [own * frame for frame in free]
    for value, block in zip(ahead, blocks[1:], strict=True):
        numbers += [value] * block.shape[1]
    return tuple(numbers)


def _join(blocks: Sequence[Tensor]) -> Tensor | None:
    return torch.cat(list(blocks), dim=1) if blocks else None


__all__ = ["Denoised", "Level", "denoise"]
