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
