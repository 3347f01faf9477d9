"""Naive float64 versions written from the papers' formulas. Never imported by the package."""

import cmath
import math
from typing import NamedTuple

import torch


def rotary(x, temporal, height, width):
    """Rotate ``x`` [S, D] of tokens at (temporal, row, column), pair by pair, as complex numbers."""
    tokens, dim = x.shape
    out = torch.zeros(tokens, dim, dtype=torch.float64)
    space = dim // 6
    pairs = [dim // 2 - 2 * space, space, space]
    token = 0
    for t in temporal:
        for row in range(height):
            for column in range(width):
                pair = 0
                for index, count in zip((t, row, column), pairs, strict=True):
                    for i in range(count):
                        angle = index * 10000.0 ** (-i / count)
                        z = complex(x[token, 2 * pair], x[token, 2 * pair + 1])
                        z *= cmath.exp(1j * angle)
                        out[token, 2 * pair], out[token, 2 * pair + 1] = z.real, z.imag
                        pair += 1
                token += 1
    return out


def attention(query, key, value, mask=None):
    """Softmax attention of one head, ``[S, D]``, query by query."""
    rows = []
    for i, q in enumerate(query.double()):
        scores = [float(q @ k) / math.sqrt(len(q)) for k in key.double()]
        if mask is not None:
            scores = [s if mask[i, j] else -math.inf for j, s in enumerate(scores)]
        top = max(scores)
        weights = [math.exp(s - top) for s in scores]
        total = sum(weights)
        rows.append(sum(w / total * v for w, v in zip(weights, value.double(), strict=True)))
    return torch.stack(rows)


class Memory(NamedTuple):
    """One frame in one layer ``[T, N, D]``, nothing rotated; ``places`` are rows and columns of its tokens."""

    key: torch.Tensor
    value: torch.Tensor
    query: torch.Tensor | None = None
    places: torch.Tensor | None = None


class NaiveWan:
    """Wan's transformer of one stream in float64, frame by frame: lists in, lists out, no cache object.

    What is remembered of a frame is one ``Memory`` per layer.
    """

    def __init__(self, weights, heads, freq_dim):
        self.w = {name: tensor.double() for name, tensor in weights.items()}
        self.heads, self.freq_dim = heads, freq_dim
        self.layers = 1 + max(int(name.split(".")[1]) for name in self.w if "blocks." in name)

    def forward(self, frames, timesteps, text, past, index):
        """Return the velocity and the memory of each live frame ``[C, H, W]``.

        ``timesteps`` has one number per live frame, ``past`` the memories of frames before the live ones,
        ``index`` every frame's temporal index.
        """
        rows, columns = frames[0].shape[1] // 2, frames[0].shape[2] // 2
        tokens, half = rows * columns, self.freq_dim // 2
        rate = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.tensor(timesteps, dtype=torch.float64)[:, None] * rate
        wave = torch.cat([angle.cos(), angle.sin()], dim=1)
        time = self._linear("time_embedding.2", _silu(self._linear("time_embedding.0", wave)))
        six = self._linear("time_projection.1", _silu(time)).reshape(len(frames), 6, -1)
        six = six.repeat_interleave(tokens, 0)
        words = self._linear(
            "text_embedding.2", _gelu(self._linear("text_embedding.0", text.double()))
        )
        grid = torch.tensor([(row, column) for row in range(rows) for column in range(columns)])
        x = torch.cat([self._patches(frame) for frame in frames])
        memories = [[] for _ in frames]
        for layer in range(self.layers):
            name = f"blocks.{layer}"
            shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
                six + self.w[f"{name}.modulation"][0]
            ).unbind(1)
            h = _center(x) * (1 + scale_a) + shift_a
            parts = [part.split(tokens) for part in self._qkv(f"{name}.self_attn", h, h)]
            for memory, query, key, value in zip(memories, *parts, strict=True):
                memory.append(Memory(key, value, query))
            seen = [memory[layer] for memory in (*past, *memories)]
            places = [_places(at, m, grid) for at, m in zip(index, seen, strict=True)]
            key = turn(torch.cat([memory.key for memory in seen]), torch.cat(places))
            query = turn(torch.cat(parts[0]), torch.cat(places[len(past) :]))
            mixed = _softmax_attention(query, key, torch.cat([memory.value for memory in seen]))
            x = x + gate_a * self._linear(f"{name}.self_attn.o", mixed)
            h = _center(x) * self.w[f"{name}.norm3.weight"] + self.w[f"{name}.norm3.bias"]
            mixed = _softmax_attention(*self._qkv(f"{name}.cross_attn", h, words))
            x = x + self._linear(f"{name}.cross_attn.o", mixed)
            h = _center(x) * (1 + scale_f) + shift_f
            x = x + gate_f * self._linear(f"{name}.ffn.2", _gelu(self._linear(f"{name}.ffn.0", h)))
        head = (self.w["head.modulation"][0] + time[:, None]).repeat_interleave(tokens, 0)
        out = self._linear("head.head", _center(x) * (1 + head[:, 1]) + head[:, 0])
        return [self._image(part, rows, columns) for part in out.split(tokens)], memories

    def _linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def _qkv(self, name, x, other):
        query, key = (
            self.w[f"{name}.norm_{part}.weight"]
            * y
            / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            for part, y in (
                ("q", self._linear(f"{name}.q", x)),
                ("k", self._linear(f"{name}.k", other)),
            )
        )
        value = self._linear(f"{name}.v", other)
        return [y.reshape(len(y), self.heads, -1) for y in (query, key, value)]

    def _patches(self, frame):
        weight = self.w["patch_embedding.weight"].flatten(1)
        tokens = [
            weight @ frame[:, row : row + 2, column : column + 2].double().flatten()
            for row in range(0, frame.shape[1], 2)
            for column in range(0, frame.shape[2], 2)
        ]
        return torch.stack(tokens) + self.w["patch_embedding.bias"]

    def _image(self, tokens, rows, columns):
        patches = tokens.reshape(rows, columns, 2, 2, -1)
        image = torch.zeros(patches.shape[-1], 2 * rows, 2 * columns, dtype=torch.float64)
        for row in range(rows):
            for column in range(columns):
                corner = patches[row, column].permute(2, 0, 1)
                image[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = corner
        return image


def _silu(x):
    return x / (1 + (-x).exp())


def _gelu(x):
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def _center(x):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def _places(index, memory, grid):
    """Where the tokens of one frame stand: time, row, column, ``[T, 3]``."""
    own = (grid if memory.places is None else memory.places).double()
    return torch.cat([torch.full((len(own), 1), float(index), dtype=torch.float64), own], dim=1)


def turn(x, places):
    """Rotate tokens ``[S, N, D]`` at their places ``[S, 3]``."""
    pairs = x.shape[-1] // 2
    space = pairs // 3
    angles = [
        places[:, axis, None] * 10000.0 ** (-torch.arange(n, dtype=torch.float64) / n)
        for axis, n in enumerate((pairs - 2 * space, space, space))
    ]
    angle = torch.cat(angles, dim=1)[:, None]
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], pairs, 2)) * torch.exp(1j * angle)
    return torch.view_as_real(turned).flatten(-2)


def _softmax_attention(query, key, value):
    """Attend ``[S, N, D]`` to ``[K, N, D]`` and return the heads side by side."""
    scores = torch.einsum("snd,knd->nsk", query, key) / math.sqrt(query.shape[-1])
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.einsum("nsk,knd->snd", weights, value).flatten(1)


def warped_levels(steps, shift):
    """Timestep and noise level of every step: entries of the public table, which is float32.

    Rounding is part of the numbers: timesteps 4e-5 apart move the tiny model's latents by 1e-5.
    """
    grid = torch.linspace(1, 0, 1001)[:-1]
    table = shift * grid / (1 + (shift - 1) * grid)
    return [(float(1000 * table[1000 - step]), float(table[1000 - step])) for step in steps]
