"""What every anchor shows, as its paper says it: a function of the whole history, in float64.

Imports nothing from the package. An anchor returns, in order, pairs of a temporal index in absolute time
and a memory. What no paper fixes is as docs/mechanisms says: slots directly in front of the window for
packed, selected and pooled tokens, and a bank that begins with every frame known at the first eviction.
"""

from typing import NamedTuple

import torch
from reference import Memory, turn


class Frame(NamedTuple):
    """A content frame: its number in the stream, and one ``Memory`` per layer."""

    number: int
    memory: list


class Left(NamedTuple):
    """One eviction: the frames that left, those that stayed, and the chunk that had just been committed."""

    gone: list
    stayed: list
    asking: list


class History(NamedTuple):
    """The evictions so far, the hidden frames of every chunk that had any, and the last chunk's frames."""

    evictions: list
    states: list
    last: list

    @property
    def gone(self):
        return [frame for left in self.evictions for frame in left.gone]


def mixed(memories, weights):
    """The weighted sum of frames, layer by layer."""
    layers = zip(*memories, strict=True)
    return [
        Memory(*(sum(w * m[i] for w, m in zip(weights, layer, strict=True)) for i in (0, 1)))
        for layer in layers
    ]


class Sink:
    """The first frames that left, for ever, at their own time. Anchors behind it do not see them."""

    states = 0

    def __init__(self, count):
        self.full = self.owned = count

    def show(self, history, window_start):
        return [(frame.number, frame.memory) for frame in history.gone[: self.full]]


class Looking(Sink):
    """An anchor that takes no frame from those behind it."""

    def __init__(self, count):
        self.full, self.owned = count, 0


class Newest(Looking):
    """The last frames that left."""

    def show(self, history, window_start):
        return [(frame.number, frame.memory) for frame in history.gone[-self.full :]]


class Average(Looking):
    """Slot s of n: frames s, s + n, ... that left; the first weighs d^k, the j-th of k (1 - d) d^(k - j)."""

    def __init__(self, count, decay):
        super().__init__(count)
        self.decay = decay

    def show(self, history, window_start):
        shown = []
        for first in history.gone[: self.full]:
            same = [f for f in history.gone if (f.number - first.number) % self.full == 0]
            k = len(same) - 1
            rest = [(1 - self.decay) * self.decay ** (k - j) for j in range(1, k + 1)]
            average = mixed([frame.memory for frame in same], [self.decay**k, *rest])
            shown.append((first.number, average))
        return shown


class Bank(Looking):
    """The first frames of the stream, read forwards and backwards in turn by absolute time."""

    def __init__(self, count, bank):
        super().__init__(count)
        self.bank = bank

    def show(self, history, window_start):
        if not history.evictions:
            return []
        known = {f.number: f for f in (*history.evictions[0].stayed, *history.gone)}
        bank = [known[number].memory for number in sorted(known)][: self.bank]
        there_and_back = [*range(self.bank), *reversed(range(self.bank))]
        times = range(window_start - self.full, window_start)
        index = [there_and_back[(time - min(known)) % len(there_and_back)] for time in times]
        return [(time, bank[min(i, len(bank) - 1)]) for time, i in zip(times, index, strict=True)]


class State(Sink):
    """AdaState: the hidden frames of the chunk before; at first the first frames of the stream play them."""

    def __init__(self, count):
        super().__init__(count)
        self.states = count

    def show(self, history, window_start):
        if not history.evictions:
            return []
        oldest = [*history.evictions[0].gone, *history.evictions[0].stayed]
        first = [frame.memory for frame in oldest[: self.full]]
        before = history.states[-1] if history.states else first
        return [(window_start - 2 * self.full + i, memory) for i, memory in enumerate(before)]


class Pool(Looking):
    """A running mean, eviction by eviction, of the mean token of all that left."""

    def __init__(self, decay=0.99):
        super().__init__(1)
        self.decay = decay

    def show(self, history, window_start):
        means = []
        for left in history.evictions:
            share = [1 / len(left.gone)] * len(left.gone)
            layers = mixed([frame.memory for frame in left.gone], share)
            means.append([Memory(*(x.mean(0).expand_as(x) for x in m[:2])) for m in layers])
        if not means:
            return []
        memory = means[0]
        for mean in means[1:]:
            memory = mixed([memory, mean], [self.decay, 1 - self.decay])
        return [(window_start - 1, memory)]


class Selection(Sink):
    """Deep Forcing: a sink and, layer by layer, the single tokens that the last chunk attends to most."""

    def __init__(self, sink, selected, grid):
        super().__init__(sink)
        self.full = sink + selected
        self.selected, self.grid = selected, grid

    def show(self, history, window_start):
        sink = [frame.memory for frame in history.gone[: self.owned]]
        layers = []
        for layer in range(len(history.last[0].memory) if history.last else 0):
            tokens, taken = None, 0
            for left in history.evictions:
                rest = left.gone[max(0, self.owned - taken) :]
                taken += len(left.gone)
                if rest:
                    tokens = self._select(layer, tokens, rest, left.asking)
            layers.append([] if tokens is None else self._frames(*tokens))
        both = [*sink, *(list(frame) for frame in zip(*layers, strict=True))]
        return [(window_start - len(both) + i, memory) for i, memory in enumerate(both)]

    def _places(self, frames):
        rows, columns = self.grid
        places = [
            (frame.number, row, column)
            for frame in frames
            for row in range(rows)
            for column in range(columns)
        ]
        return torch.tensor(places, dtype=torch.float64)

    def _select(self, layer, tokens, gone, asking):
        """Keep the tokens with the highest sum over heads and queries of query times key, both rotated."""
        new = [torch.cat([frame.memory[layer][i] for frame in gone]) for i in (0, 1)]
        new.append(self._places(gone))
        if tokens is not None:
            new = [torch.cat(pair) for pair in zip(tokens, new, strict=True)]
        key, _, places = new
        query = torch.cat([frame.memory[layer].query for frame in asking])
        query = turn(query, self._places(asking))
        scores = torch.einsum("snd,qnd->s", turn(key, places), query).tolist()
        rows, columns = self.grid
        by_score = sorted(range(len(scores)), key=lambda i: -scores[i])
        best = sorted(by_score[: self.selected * rows * columns])
        return [part[best] for part in new]

    def _frames(self, key, value, places):
        parts = (part.split(self.grid[0] * self.grid[1]) for part in (key, value, places[:, 1:]))
        return [Memory(k, v, None, own) for k, v, own in zip(*parts, strict=True)]


class Packed(Sink):
    """PackForcing: a sink and, layer by layer, the packed frames whose keys the last chunk's queries resemble."""

    def __init__(self, sink, shown, bank, stride, grid):
        super().__init__(sink)
        self.full = sink + shown
        self.shown, self.bank, self.stride, self.grid = shown, bank, stride, grid

    def show(self, history, window_start):
        sink = [frame.memory for frame in history.gone[: self.owned]]
        bank = history.gone[self.owned :][-self.bank :]
        layers = []
        for layer in range(len(bank[0].memory) if bank else 0):
            packed = [self._pack(frame.memory[layer]) for frame in bank]
            query = torch.cat([frame.memory[layer].query for frame in history.last]).mean(0)
            scores = [float((frame.key * query).sum((1, 2)).mean()) for frame in packed]
            by_score = sorted(range(len(scores)), key=lambda i: -scores[i])
            layers.append([packed[i] for i in sorted(by_score[: self.shown])])
        both = [*sink, *(list(frame) for frame in zip(*layers, strict=True))]
        return [(window_start - len(both) + i, memory) for i, memory in enumerate(both)]

    def _pack(self, memory):
        """Average patches of tokens; the patch stands in its middle."""
        rows, columns = self.grid
        down, right = self.stride
        patches = [
            [
                (row, column)
                for row in range(top, top + down)
                for column in range(left, left + right)
            ]
            for top in range(0, rows, down)
            for left in range(0, columns, right)
        ]
        middle = torch.tensor(patches, dtype=torch.float64).mean(1)
        which = [[row * columns + column for row, column in patch] for patch in patches]
        key, value = (
            torch.stack([part[tokens].mean(0) for tokens in which])
            for part in (memory.key, memory.value)
        )
        return Memory(key, value, None, middle)


class Row:
    """Anchors one behind the other; each sees the evictions without the frames owned by those before it."""

    def __init__(self, *parts):
        self.parts = parts
        self.full = sum(part.full for part in parts)
        self.states = sum(part.states for part in parts)

    def show(self, history, window_start):
        shown = []
        for part in self.parts:
            shown += part.show(history, window_start)
            taken, rest = 0, []
            for left in history.evictions:
                own = max(0, part.owned - taken)
                taken += len(left.gone)
                if left.gone[own:]:
                    rest.append(left._replace(gone=left.gone[own:]))
            history = history._replace(evictions=rest)
        return shown
