"""Our own naive stream, to compare with: same maths, same window, nothing kept from pass to pass.

In every layer and every pass the whole window is joined and rotated anew in complex128, and the text is
embedded and projected anew. It serves a static sink with packed positions; its output equals ours. It is
not public code: public Self-Forcing caches the text's keys and values and stores its keys rotated.
"""

# Shapes: B batch, F frames, C channels, S tokens, N heads, D head dim, E model dim.

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_adastate.backbones import WanTransformer
from lightning_adastate.flow import add_noise, velocity_to_x0
from lightning_adastate.noise import CounterNoise, NoiseKey
from lightning_adastate.schedules import FewStepSchedule


def angles(
    positions: list[int], grid: tuple[int, int], head_dim: int, device: torch.device
) -> Tensor:
    """Unit complex numbers of every token, ``[S, 1, D / 2]`` in complex128."""
    space = head_dim // 6
    sizes = (head_dim // 2 - 2 * space, space, space)
    places = torch.cartesian_prod(
        torch.tensor(positions, dtype=torch.float64, device=device),
        torch.arange(grid[0], dtype=torch.float64, device=device),
        torch.arange(grid[1], dtype=torch.float64, device=device),
    )
    parts = []
    for axis, size in enumerate(sizes):
        frequency = 10000.0 ** -(torch.arange(size, dtype=torch.float64, device=device) / size)
        parts.append(places[:, axis : axis + 1] * frequency)
    turn = torch.cat(parts, dim=1).unsqueeze(1)
    return torch.polar(torch.ones_like(turn), turn)


def rotate(x_BSND: Tensor, turn_S1P: Tensor) -> Tensor:
    """Rotate pairs in complex128."""
    pairs = torch.view_as_complex(x_BSND.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn_S1P).flatten(-2).to(x_BSND.dtype)


class PlainStream:
    """A static sink of ``sink`` frames in a budget of ``budget``, chunk by chunk."""

    def __init__(self, model: WanTransformer, schedule: FewStepSchedule, sink: int, budget: int):
        self.model, self.schedule, self.sink, self.budget = model, schedule, sink, budget
        self.cache: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(model.num_layers)]

    @torch.no_grad()
    def stream(
        self, text_BSE: Tensor, latent: tuple[int, int, int], seed: int = 0
    ) -> Iterator[Tensor]:
        noise, chunk, size = CounterNoise(), 0, self.schedule.chunk_frames

        def draw(step: int) -> Tensor:
            key = NoiseKey(chunk, step, "content")
            rows = tuple(range(len(text_BSE)))
            drawn = noise.draw(key, seed=seed, stream_ids=rows, shape_FCHW=(size, *latent))
            return drawn.to(text_BSE.device)

        while True:
            held = len(self.cache[0])
            if held + size > self.budget:
                keep = self.budget - self.sink - size
                for frames in self.cache:
                    frames[:] = frames[: self.sink] + frames[len(frames) - keep :]
            live = x0 = draw(0)
            for index, one in enumerate(self.schedule.passes(chunk)):
                if one.kind == "commit":
                    self.forward(x0, 0.0, text_BSE, write=True)
                    continue
                velocity = self.forward(live, one.timestep, text_BSE, write=False)
                x0 = velocity_to_x0(velocity, live, one.sigma)
                if one.next_sigma is not None:
                    live = add_noise(x0, draw(index + 1), one.next_sigma)
            yield x0
            chunk += 1

    def forward(self, latents: Tensor, timestep: float, text: Tensor, *, write: bool) -> Tensor:
        model, frames = self.model, latents.shape[1]
        grid = model.token_grid(*latents.shape[-2:])
        x = model._patchify(latents)
        time, modulation = model.embed_time(latents.new_full((1, frames), timestep)).parts
        held = len(self.cache[0])
        for layer, block in enumerate(model._blocks()):
            parts = (block.modulation + modulation).unsqueeze(3).unbind(2)
            shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = parts
            normed = (block.norm1(x).unflatten(1, (frames, -1)) * (1 + scale_a) + shift_a).flatten(
                1, 2
            )
            query = block.self_attn.query(normed)
            key, value = block.self_attn.key_value(normed)
            cached = self.cache[layer]
            keys = torch.cat([*(k.clone() for k, _ in cached), key], dim=1)
            values = torch.cat([*(v.clone() for _, v in cached), value], dim=1)
            keys = rotate(keys, angles(list(range(held + frames)), grid, model.head_dim, x.device))
            live = angles(list(range(held, held + frames)), grid, model.head_dim, x.device)
            mixed = block.self_attn.output(rotate(query, live), keys, values, None)
            x = x + (mixed.unflatten(1, (frames, -1)) * gate_a).flatten(1, 2)
            embedded = model.text_embedding(text.to(x.dtype))
            pair = block.cross_attn.key_value(embedded)
            x = x + block.cross_attn.output(block.cross_attn.query(block.norm3(x)), *pair, None)
            fed = (block.norm2(x).unflatten(1, (frames, -1)) * (1 + scale_f) + shift_f).flatten(
                1, 2
            )
            x = x + (block.ffn(fed).unflatten(1, (frames, -1)) * gate_f).flatten(1, 2)
            if write:
                tokens = grid[0] * grid[1]
                pairs = zip(key.split(tokens, 1), value.split(tokens, 1), strict=True)
                cached += pairs
        return model._unpatchify(model.head(x, time), frames, grid)
