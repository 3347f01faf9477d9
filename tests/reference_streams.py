"""Streams made anew from their definitions: lists of frames, float64, no cache object.

Never imported by the package, and imports nothing from it. A chunk looks at the whole history: which frames
have left the window, and when (``reference_anchors``). Nothing else is carried along.
"""

from typing import NamedTuple

import torch
from reference_anchors import Frame, History, Left


class Window(NamedTuple):
    """``size`` frames, cached and live, and with ``holds_anchor`` the anchor's; time packed or absolute.

    Once frames must go, ``compress_to`` are left. ``history`` frames that left can still be read.
    """

    size: int
    holds_anchor: bool
    packed: bool
    compress_to: int | None = None
    history: int = 0

    def num_evicted(self, cached, live, shown, full):
        fixed = (shown, full) if self.holds_anchor else (0, 0)
        if cached + live + fixed[0] <= self.size:
            return 0
        room = self.size - live - fixed[1]
        left = room if self.compress_to is None else room - (self.size - self.compress_to)
        return cached - max(0, left)


class Passes(NamedTuple):
    """``levels(chunk)`` of (timestep, sigma); what is remembered; ``depth`` chunks share every pass.

    ``remembered(chunk)``: ``clean`` frames in a pass of their own, those of the ``last`` denoise pass, or
    ``renoised`` ones. That pass reads no anchor and ``own_window`` frames, where it is given.
    """

    levels: object
    remembered: object = lambda chunk: "clean"
    euler: bool = False
    depth: int = 1
    own_window: int | None = None


class Layout(NamedTuple):
    """Memories and temporal indices of anchor, history, cached; indices of live frames, hidden ones first."""

    anchor: list
    history: list
    cached: list
    live: list

    def read(self, num_live, reads_anchor=True, newest=None):
        """The memories a pass reads, and every index."""
        cached = [*self.history, *self.cached]
        count = len(self.cached) if newest is None else min(newest, len(cached))
        parts = [*(self.anchor if reads_anchor else []), *cached[len(cached) - count :]]
        return [memory for _, memory in parts], [*(at for at, _ in parts), *self.live[:num_live]]


def lay_out(anchor, window, history, cached, start, num_live):
    """Where everything stands in the chunk whose first frame is ``start``."""
    first = cached[0].number if cached else start
    shown = anchor.show(history, first)
    hidden = anchor.states if len(shown) == anchor.full else 0  # from the first eviction it sees
    if window.packed:
        sizes = (len(shown), hidden, len(cached), num_live)
        begin = [sum(sizes[:i]) for i in range(4)]
        places, state, old, live = (
            list(range(b, b + n)) for b, n in zip(begin, sizes, strict=True)
        )
    else:
        places = [at for at, _ in shown]
        state = list(range(first - hidden, first))
        old = [frame.number for frame in cached]
        live = list(range(start, start + num_live))
    front = (*old, *live)[0]
    behind = history.gone[-window.history :] if window.history else []
    return hidden, Layout(
        list(zip(places, (memory for _, memory in shown), strict=True)),
        [(front - len(behind) + i, frame.memory) for i, frame in enumerate(behind)],
        list(zip(old, (frame.memory for frame in cached), strict=True)),
        [*state, *live],
    )


# -- the stream -------------------------------------------------------------------------------------------


def noised(frames, noise, sigma):
    return [(1 - sigma) * x + sigma * e for x, e in zip(frames, noise, strict=True)]


def naive_stream(model, text, draw, *, chunks, sizes, anchor, window, passes):
    """Return of every chunk its content ``[F, C, H, W]``, its hidden frames or ``None``, and who is cached after it.

    ``draw(chunk, step, slot, count)`` gives noise as a list of frames, ``sizes(chunk)`` its content frames.
    """
    cached, history, flight, start, out = [], History([], [], []), {}, 0, []
    for chunk in range(chunks):
        count = sizes(chunk)
        num_live = sum(sizes(chunk + i) for i in range(passes.depth))
        shown = len(anchor.show(history, (cached[0].number if cached else start)))
        excess = window.num_evicted(len(cached), num_live, shown, anchor.full)
        if excess > 0:
            left = Left(cached[:excess], cached[excess:], history.last)
            history = history._replace(evictions=[*history.evictions, left])
            cached = cached[excess:]
        hidden, layout = lay_out(anchor, window, history, cached, start, num_live)

        def fresh(number, step, chunk=chunk, hidden=hidden):
            state = draw(number, step, "state", hidden) if hidden else []
            return [*state, *draw(number, step, "content", sizes(number))]

        levels = passes.levels(chunk)
        while chunk not in flight or flight[chunk][0] < len(levels):
            if len(flight) < passes.depth:
                number = chunk + len(flight)
                flight[number] = (0, fresh(number, 0))
            live = [x for _, frames in flight.values() for x in frames]
            at = [passes.levels(n)[step] for n, (step, frames) in flight.items() for _ in frames]
            past, index = layout.read(len(live))
            velocity, memory = model.forward(live, [time for time, _ in at], text, past, index)
            clean = [x - sigma * v for x, (_, sigma), v in zip(live, at, velocity, strict=True)]
            for number, (step, frames) in flight.items():
                x0, clean = clean[: len(frames)], clean[len(frames) :]
                v, velocity = velocity[: len(frames)], velocity[len(frames) :]
                if step + 1 < len(passes.levels(number)):
                    noise = fresh(number, step + 1)
                    if passes.euler:
                        noise = [x + d for x, d in zip(x0, v, strict=True)]
                    x0 = noised(x0, noise, passes.levels(number)[step + 1][1])
                flight[number] = (step + 1, x0)
        _, x0 = flight.pop(chunk)
        how = passes.remembered(chunk)
        if how != "last":
            time, sigma = levels[-1] if how == "renoised" else (0.0, 0.0)
            given = noised(x0, fresh(chunk, len(levels) + 1), sigma)
            past, index = layout.read(len(x0), passes.own_window is None, passes.own_window)
            _, memory = model.forward(given, [time] * len(x0), text, past, index)
        frames = [Frame(start + i, memory[hidden + i]) for i in range(count)]
        states = [*history.states, memory[:hidden]] if hidden else history.states
        cached, history = [*cached, *frames], history._replace(states=states, last=frames)
        shown = torch.stack(x0[:hidden]) if hidden else None
        out.append((torch.stack(x0[hidden:]), shown, [frame.number for frame in cached]))
        start += count
    return out
