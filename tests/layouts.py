"""Which frame stands where in the public systems: their own slot arithmetic, on symbols.

Written from reference notes, not from our code: buffers with counters and moving slots, no tensors, and
nothing imported from the package. A frame's content is ``{label: weight}``; labels are ``("f", n)`` for
frame n as committed, ``("noisy", n)`` before its clean pass, ``("s", chunk, i)`` for a state frame.

Where public code is broken it is not modelled, and a test must not ask for it:
sink + chunk > window (Self-Forcing corrupts its cache silently); evicted frames != sink slots, hence any
window that is no multiple of the chunk (Reward Forcing overwrites the sink); chunk < sink (LongLive and
Reward Forcing attend to slots of zeros from the start); a window that is no multiple of the chunk, or a
short first chunk (Rolling Sink cuts across its bank); no sink (Infinity-RoPE then never rotates the first
cached frame); a flush before the buffer is full (Infinity-RoPE keeps slots of zeros).
"""

from typing import NamedTuple

Content = dict[tuple, float]


class Seen(NamedTuple):
    """What the passes of a chunk see: keys with temporal index (live ones too), and query indices."""

    keys: list[tuple[float, Content]]
    queries: list[float]


def seen(keys, queries):
    """Count every index from the last live frame, and order by index: storage order is no matter."""
    keys = list(keys)
    origin = keys[-1][0]
    relative = sorted(((place - origin, what) for place, what in keys), key=lambda pair: pair[0])
    return Seen(relative, [place - origin for place in queries])


def frame(number):
    return {("f", number): 1.0}


def noisy(number):
    return {("noisy", number): 1.0}


def committed(content):
    """What a noisy live frame becomes in the clean pass."""
    return {("f", *label[1:]) if label[0] == "noisy" else label: w for label, w in content.items()}


class RollingBuffer:
    """Self-Forcing's cache of one layer (also LongLive's and Causal Forcing's), in frames.

    Two counters; a chunk rolls at its first call only, because later calls do not pass the global end.
    """

    def __init__(self, size, sink):
        self.size, self.sink = size, sink
        self.slots = [None] * size
        self.frame_indices = [None] * size
        self.global_end = self.local_end = 0

    def evict(self, evicted):
        """What happens to the frames that leave; ``evicted`` are the slots behind the sink."""

    def call(self, start, contents):
        """Write the live frames of a call starting at global ``start``; return the visible slots."""
        count, end = len(contents), start + len(contents)
        if end > self.global_end and self.local_end + count > self.size:
            gone = count + self.local_end - self.size
            kept = self.local_end - gone - self.sink
            assert kept >= 0, "public code is broken here"
            self.evict(range(self.sink, self.sink + gone))
            for i in range(kept):
                self.slots[self.sink + i] = self.slots[self.sink + gone + i]
                self.frame_indices[self.sink + i] = self.frame_indices[self.sink + gone + i]
            self.local_end += end - self.global_end - gone
        else:
            self.local_end += end - self.global_end
        for i, content in enumerate(contents):
            self.slots[self.local_end - count + i] = content
            self.frame_indices[self.local_end - count + i] = start + i
        self.global_end = end
        visible = range(max(0, self.local_end - self.size), self.local_end)
        assert all(self.slots[i] is not None for i in visible), "a slot of zeros is visible"
        return list(visible)

    def index(self, visible, start, count):
        """Temporal index of the visible slots' keys, and of the queries: frame_index, rotated for good."""
        del count
        places = [self.frame_indices[i] for i in visible]
        return places, [place for place in places if place >= start]

    def chunk(self, start, count, passes=2):
        """Run a chunk's denoise calls and its clean call, and return what the last of them sees."""
        live = [noisy(start + i) for i in range(count)]
        views = []
        for step in range(passes + 1):
            visible = self.call(
                start, [frame(start + i) for i in range(count)] if step == passes else live
            )
            places, queries = self.index(visible, start, count)
            keys = [
                (place, committed(self.slots[i])) for place, i in zip(places, visible, strict=True)
            ]
            views.append(seen(keys, queries))
        assert all(view == views[0] for view in views), (
            "denoise and clean pass see the same frames"
        )
        return views[-1]


class PackedBuffer(RollingBuffer):
    """Infinity-RoPE and LongLive's infinity mode: raw keys, indexed by slot when read.

    Queries stand at the end of a full window, and at their global index before it is full.
    """

    def index(self, visible, start, count):
        first = min(start, self.size - count)
        return list(range(len(visible))), list(range(first, first + count))

    def flush(self, keep=2):
        """Infinity-RoPE's KV flush: the sink and the last slots of a full buffer; counters at their end."""
        assert self.local_end == self.size, "public code keeps slots of zeros"
        for i in range(keep):
            self.slots[self.sink + i] = self.slots[self.size - keep + i]
            self.frame_indices[self.sink + i] = self.frame_indices[self.size - keep + i]
        self.local_end = self.sink + keep


class RecachingBuffer(RollingBuffer):
    """LongLive: at a prompt switch the newest clean latents are encoded again, ``("r", n)``.

    With a kept sink they fill the slots behind it, except while everything fits: then the encoded range
    starts at frame 0 and the sink is written too. Without, they fill all slots: the sink moves on.
    """

    def recache(self, start, keep_sink):
        newest = list(range(max(0, start - self.size), start))
        slot = 0
        if keep_sink and start > self.size:
            slot, newest = self.sink, newest[self.sink - self.size :]
        for i, number in enumerate(newest):
            self.slots[slot + i], self.frame_indices[slot + i] = {("r", number): 1.0}, number
        self.local_end = slot + len(newest)


class CutBuffer(PackedBuffer):
    """The chunk after a hard cut: live frames far away, cached ones packed from zero."""

    cut = None

    def index(self, visible, start, count):
        if self.cut is None:
            return super().index(visible, start, count)
        live = [self.cut + i for i in range(count)]
        return [*range(len(visible) - count), *live], live


class AveragingBuffer(PackedBuffer):
    """Reward Forcing: the block that leaves is folded into the sink, slot by slot, and weighs 1 - alpha."""

    def __init__(self, size, sink, alpha):
        super().__init__(size, sink)
        self.alpha = alpha

    def evict(self, evicted):
        assert len(evicted) == self.sink, "public code overwrites the sink"
        for slot, leaving in enumerate(evicted):
            mixed = {label: self.alpha * weight for label, weight in self.slots[slot].items()}
            for label, weight in self.slots[leaving].items():
                mixed[label] = mixed.get(label, 0.0) + (1.0 - self.alpha) * weight
            self.slots[slot] = mixed


class BankBuffer(RollingBuffer):
    """Rolling Sink: no sink; the chunk before the last is overwritten from a bank of the first frames.

    After the attention of the clean pass of a chunk that starts at ``size`` or later, the previous
    chunk's slots get bank frames, forwards or backwards in turn.
    """

    def __init__(self, size, chunk):
        super().__init__(size, 0)
        assert size % chunk == 0
        self.bank_size = size - chunk

    def chunk(self, start, count, passes=2):
        view = super().chunk(start, count, passes)
        if start >= self.size:
            before = start - count
            turn, offset = divmod(before, self.bank_size)
            block = [offset + i for i in range(count)]
            if turn % 2:
                block = [self.bank_size - 1 - i for i in block]
            for i, number in enumerate(block):
                slot = self.frame_indices.index(before + i)
                self.slots[slot] = frame(number)
        return view


class AdaStateStream:
    """AdaState from the paper: ``window`` content frames (cached + live), ``state`` hidden frames.

    Everything fits: plain Self-Forcing. From the first eviction on: previous state, live state, cached
    content, live content at 0, 1, 2, ... in every chunk; the first frames play the first previous state.
    With fewer than ``state`` frames generated by then the paper says nothing, and neither does this.
    """

    def __init__(self, window, state):
        self.window, self.size = window, state
        self.cached, self.state, self.chunks = [], None, 0

    def chunk(self, start, count):
        live = [frame(start + i) for i in range(count)]
        excess = len(self.cached) + count - self.window
        if excess > 0 and self.state is None:
            assert start >= self.size, "the paper does not say"
            self.state = [frame(i) for i in range(self.size)]
        self.cached = self.cached[max(0, excess) :]
        hidden = []
        if self.state is not None:
            hidden = [{("s", self.chunks, i): 1.0} for i in range(self.size)]
        everything = [*(self.state or []), *hidden, *self.cached, *live]
        own = range(len(self.state or []), len(self.state or []) + len(hidden))
        queries = [*own, *range(len(everything) - count, len(everything))]
        view = seen(list(enumerate(everything)), queries)
        if hidden:
            self.state = hidden
        self.cached += live
        self.chunks += 1
        return view


def closed_form(end, size, sink):
    """Frames that a Self-Forcing chunk ending before frame ``end`` sees."""
    return sorted({*range(min(sink, end)), *range(max(0, end - (size - sink)), end)})
