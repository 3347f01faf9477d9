"""Naive float64 versions written from the papers' formulas. Never imported by the package."""

import cmath
import math

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


class NaiveWan:
    """Wan's transformer of one stream in float64, frame by frame: lists in, lists out, no cache object.

    A frame's memory is one (key, value) pair per layer, ``[T, N, D]`` each, keys not rotated.
    """

    def __init__(self, weights, heads, freq_dim):
        self.w = {name: tensor.double() for name, tensor in weights.items()}
        self.heads, self.freq_dim = heads, freq_dim
        self.layers = 1 + max(int(name.split(".")[1]) for name in self.w if "blocks." in name)

    def forward(self, frames, timestep, text, past, index):
        """Return the velocity and the memory of each live frame ``[C, H, W]``.

        ``past`` holds the memories of frames before the live ones, ``index`` every frame's temporal index.
        """
        rows, columns = frames[0].shape[1] // 2, frames[0].shape[2] // 2
        half = self.freq_dim // 2
        angle = timestep * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        wave = torch.cat([angle.cos(), angle.sin()])
        time = self._linear("time_embedding.2", _silu(self._linear("time_embedding.0", wave)))
        six = self._linear("time_projection.1", _silu(time)).reshape(6, -1)
        words = self._linear(
            "text_embedding.2", _gelu(self._linear("text_embedding.0", text.double()))
        )
        x = torch.cat([self._patches(frame) for frame in frames])
        memories = [[] for _ in frames]
        for layer in range(self.layers):
            name = f"blocks.{layer}"
            shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (
                six + self.w[f"{name}.modulation"][0]
            )
            h = _center(x) * (1 + scale_a) + shift_a
            query, key, value = self._qkv(f"{name}.self_attn", h, h)
            for memory, k, v in zip(
                memories, key.chunk(len(frames)), value.chunk(len(frames)), strict=True
            ):
                memory.append((k, v))
            keys = [memory[layer][0] for memory in (*past, *memories)]
            values = [memory[layer][1] for memory in (*past, *memories)]
            turned = [_turn(k, place, rows, columns) for k, place in zip(keys, index, strict=True)]
            live = index[len(past) :]
            query = [
                _turn(q, place, rows, columns)
                for q, place in zip(query.chunk(len(frames)), live, strict=True)
            ]
            mixed = _softmax_attention(torch.cat(query), torch.cat(turned), torch.cat(values))
            x = x + gate_a * self._linear(f"{name}.self_attn.o", mixed)
            h = _center(x) * self.w[f"{name}.norm3.weight"] + self.w[f"{name}.norm3.bias"]
            mixed = _softmax_attention(*self._qkv(f"{name}.cross_attn", h, words))
            x = x + self._linear(f"{name}.cross_attn.o", mixed)
            h = _center(x) * (1 + scale_f) + shift_f
            x = x + gate_f * self._linear(f"{name}.ffn.2", _gelu(self._linear(f"{name}.ffn.0", h)))
        shift, scale = self.w["head.modulation"][0] + time
        out = self._linear("head.head", _center(x) * (1 + scale) + shift)
        return [self._image(part, rows, columns) for part in out.chunk(len(frames))], memories

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


def _turn(x, place, rows, columns):
    """Rotate one frame's tokens ``[T, N, D]`` at temporal index ``place``."""
    pairs = x.shape[-1] // 2
    space = pairs // 3
    angles = []
    for row in range(rows):
        for column in range(columns):
            axes = ((place, pairs - 2 * space), (row, space), (column, space))
            angles.append([at * 10000.0 ** (-i / n) for at, n in axes for i in range(n)])
    angle = torch.tensor(angles, dtype=torch.float64)[:, None]
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


def adastate(model, text, draw, *, chunks, chunk_frames, window, states, steps, shift):
    """AdaState with lists of frames: the content frames of every chunk, and its state frames.

    ``draw(chunk, step, slot, count)`` gives noise as a list of frames.
    """
    levels = warped_levels(steps, shift)
    cached, state, out = [], None, []
    for chunk in range(chunks):
        excess = len(cached) + chunk_frames - window
        if excess > 0 and state is None:
            state = cached[:states]
        cached = cached[max(0, excess) :]
        hidden = states if state is not None else 0
        past = [*(state or []), *cached]
        content_from = 2 * hidden + len(cached)
        index = [*range(hidden), *range(2 * hidden, content_from)]
        index += [*range(hidden, 2 * hidden), *range(content_from, content_from + chunk_frames)]

        def live_noise(step, chunk=chunk, hidden=hidden):
            return [
                *draw(chunk, step, "state", hidden),
                *draw(chunk, step, "content", chunk_frames),
            ]

        x = live_noise(0)
        for step, (timestep, level) in enumerate(levels):
            velocity, _ = model.forward(x, timestep, text, past, index)
            x = [a - level * v for a, v in zip(x, velocity, strict=True)]
            if step + 1 < len(levels):
                after = levels[step + 1][1]
                x = [
                    (1 - after) * a + after * n
                    for a, n in zip(x, live_noise(step + 1), strict=True)
                ]
        _, memories = model.forward(x, 0.0, text, past, index)
        if hidden:
            state = memories[:hidden]
        cached = cached + memories[hidden:]
        out.append((torch.stack(x[hidden:]), torch.stack(x[:hidden]) if hidden else None))
    return out
