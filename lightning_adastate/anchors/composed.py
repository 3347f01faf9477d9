"""A composition of anchors is an anchor (MemRoPE: a sink and two memories)."""

# Shapes: L layers, B batch, F frames, T tokens, N heads, D head dim.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from torch import nn

from lightning_adastate.anchors.base import Anchor
from lightning_adastate.types import KV, Committed, Contents, Event


class ComposedAnchor(Anchor):
    """Show several anchors one behind the other.

    Evicted frames go to the first anchor; what it claims for good (a sink its first frames), those behind
    it do not see. All of them see every other evicted frame and every commit.

    Args:
        anchors: The anchors, in the order in which they stand in front of the window.

    Raises:
        ValueError: If there is none, or more than one has hidden state frames.
    """

    def __init__(self, anchors: list[Anchor]) -> None:
        super().__init__(sum(anchor.num_frames for anchor in anchors))
        if not anchors:
            raise ValueError("`anchors` must hold one anchor or more, got none")
        hidden = [type(anchor).__name__ for anchor in anchors if anchor.num_state_frames]
        if len(hidden) > 1:
            raise ValueError(
                f"only one of `anchors` may have hidden state frames, got {' and '.join(hidden)}"
            )
        self.anchors = nn.ModuleList(anchors)
        self.num_state_frames = sum(anchor.num_state_frames for anchor in anchors)
        self.needs_query = any(anchor.needs_query for anchor in anchors)

    def empty(self) -> Contents:
        """Return every part's empty contents."""
        return _named(anchor.empty() for anchor in self._parts)

    def absorb(self, contents: Contents, evicted: KV, retained: Sequence[KV]) -> Contents:
        """Let each part absorb what those before it have not claimed."""
        changed: list[Contents] = []
        rest: KV | None = evicted
        for anchor, own in zip(self._parts, self._split(contents), strict=True):
            if rest is None:
                changed.append(own)
                continue
            changed.append(anchor.absorb(own, rest, retained))
            claimed = anchor.num_claimed(own, rest.num_frames)
            rest = rest.frames(claimed) if claimed < rest.num_frames else None
        return _named(changed)

    def commit(self, contents: Contents, committed: Committed) -> Contents:
        """Show every part what was committed; state frames go to the one that had them."""
        without = replace(committed, state=None, state_latents_BFCHW=None)
        return _named(
            anchor.commit(own, committed if anchor.num_state_frames else without)
            for anchor, own in zip(self._parts, self._split(contents), strict=True)
        )

    def read(self, contents: Contents, window_start: int) -> tuple[KV, ...]:
        """Show the parts one behind the other."""
        pairs = zip(self._parts, self._split(contents), strict=True)
        return tuple(kv for anchor, own in pairs for kv in anchor.read(own, window_start))

    def on_event(self, contents: Contents, event: Event) -> Contents:
        """Tell every part."""
        pairs = zip(self._parts, self._split(contents), strict=True)
        return _named(anchor.on_event(own, event) for anchor, own in pairs)

    def num_shown(self, contents: Contents) -> int:
        """Count what the parts show."""
        pairs = zip(self._parts, self._split(contents), strict=True)
        return sum(anchor.num_shown(own) for anchor, own in pairs)

    def num_claimed(self, contents: Contents, num_evicted: int) -> int:
        """Claim what the parts claim."""
        claimed = 0
        for anchor, own in zip(self._parts, self._split(contents), strict=True):
            claimed += anchor.num_claimed(own, num_evicted - claimed)
        return claimed

    def num_live_frames(self, contents: Contents) -> int:
        """Count the hidden frames of the parts that have begun."""
        pairs = zip(self._parts, self._split(contents), strict=True)
        return sum(anchor.num_live_frames(own) for anchor, own in pairs)

    @property
    def _parts(self) -> list[Anchor]:
        return cast("list[Anchor]", list(self.anchors))

    def _split(self, contents: Contents) -> list[dict[str, KV]]:
        """Return each part's own contents, under its own names."""
        parts: list[dict[str, KV]] = [{} for _ in self.anchors]
        for name, kv in contents.items():
            index, _, own = name.partition(".")
            parts[int(index)][own] = kv
        return parts


def _named(parts: Iterable[Contents]) -> Contents:
    """Put the parts' contents under their numbers."""
    return {f"{index}.{name}": kv for index, own in enumerate(parts) for name, kv in own.items()}
