"""What can happen on a timeline, by its name in the field: prompt switches, flushes, cuts, restarts."""

from __future__ import annotations

from typing import Literal

from lightning_adastate.types import Event

SwitchPolicy = Literal["keep", "recache", "rebase", "drop"]
"""What happens to the cache when the prompt changes.

``keep``: nothing; cached frames and anchor stay as the old prompt made them. ``recache``: the newest clean
latents are encoded anew under the new prompt, the anchor stays (LongLive with a global sink). ``rebase``:
they are, and the anchor begins anew with them. ``drop``: window and anchor are emptied.
"""


def prompt_switch(
    chunk: int, prompt: int, policy: SwitchPolicy = "recache", *, frames: int = 9
) -> Event:
    """Return a change of prompt.

    Args:
        chunk: The first chunk under the new prompt.
        prompt: Its index among the stream's prompts.
        policy: What happens to the cache.
        frames: Clean latents to encode anew (LongLive: its budget of 12 less its sink of 3; ``rebase``
            there takes all 12).

    Raises:
        ValueError: If there is nothing to encode anew.
    """
    if policy in ("recache", "rebase") and frames < 1:
        raise ValueError(f"`frames` must be 1 or more to {policy}, got {frames}")
    if policy == "keep":
        return Event(chunk, prompt=prompt)
    if policy == "drop":
        return Event(chunk, prompt=prompt, keep_frames=0, reset_anchor=True)
    return Event(chunk, prompt=prompt, recache_frames=frames, reset_anchor=policy == "rebase")


def kv_flush(chunk: int, *, keep_frames: int = 2, prompt: int | None = None) -> Event:
    """Return a KV flush: only the newest cached frames stay beside the anchor (Infinity-RoPE).

    Args:
        chunk: The chunk it opens.
        keep_frames: Cached frames that stay: 2 in the released code, 1 in the paper.
        prompt: Change to this prompt as well.
    """
    return Event(chunk, prompt=prompt, keep_frames=keep_frames)


def rope_cut(
    chunk: int, *, live_start: float = 45.0, keep_frames: int | None = 2, prompt: int | None = None
) -> Event:
    """Return a RoPE cut: for one chunk the live frames stand far from all others (Infinity-RoPE).

    Args:
        chunk: The first chunk of the new scene.
        live_start: Temporal index of its first frame: 45 in the released code.
        keep_frames: Cached frames that stay; ``None`` keeps all.
        prompt: Change to this prompt as well.
    """
    return Event(chunk, prompt=prompt, keep_frames=keep_frames, live_start=live_start)


def restart(every: int, *, overlap_frames: int = 3, reencode_first: bool = True) -> Event:
    """Return an overlapping restart: every so many chunks all is forgotten but the newest latents (CausVid).

    Args:
        every: Chunks between restarts: 6 for CausVid's 21 frames in chunks of 3, 3 of which overlap.
        overlap_frames: Newest clean latents that are encoded anew.
        reencode_first: Make the first of them an image latent before.

    Raises:
        ValueError: If ``every`` is not positive.
    """
    if every < 1:
        raise ValueError(f"`every` must be 1 or more, got {every}")
    # Chunk 0 fills a whole clip: overlap and `every` chunks. Later clips begin with the overlap.
    return Event(
        every + 1,
        keep_frames=0,
        recache_frames=overlap_frames,
        reset_anchor=True,
        every=every,
        reencode_first=reencode_first,
    )
