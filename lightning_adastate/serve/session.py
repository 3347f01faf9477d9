"""A live session: one or two streams side by side on the same noise, changed, saved and branched while they run."""

# Shapes: F frames, C colour, H W height / width in pixels.

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lightning_adastate.serve.lane import Lane, LivePolicy, with_anchor
from lightning_adastate.serve.meters import Meter
from lightning_adastate.serve.opening import Opening
from lightning_adastate.serve.snapshot import Made, Note, Save, Snapshot
from lightning_adastate.streaming.pipeline import PixelStreaming

MAX_LANES = 2
MAX_SAVES = 8
MAX_NOTES = 64
LOOK_EVERY = 4
"""Attention is measured in every so many chunks, which costs a few milliseconds."""


class LiveSession:
    """Stream, and do what is asked for between two chunks. Not for several threads at once.

    Lanes go in lock-step. They share the seed, and noise is a function of seed and chunk: lanes at the same chunk have
    the same noise, whatever their anchors.

    Args:
        modules: What streams, by the name of its anchor; all but the anchor is shared.
        opening: Where streams begin.
        anchor: The anchor to begin with; ``None`` is the first.
        seed: Seed of the noise and of all that is given.

    Raises:
        ValueError: If there is no such anchor, or the opening's prompt cannot be encoded.
    """

    def __init__(
        self,
        modules: Mapping[str, PixelStreaming],
        opening: Opening,
        *,
        anchor: str | None = None,
        seed: int = 0,
    ) -> None:
        if not modules:
            raise ValueError("a session needs an anchor to stream with")
        anchor = next(iter(modules)) if anchor is None else anchor
        if anchor not in modules:
            raise ValueError(f"there is no anchor {anchor!r}; it is one of {', '.join(modules)}")
        self.modules = dict(modules)
        self.opening = opening
        self.saves: dict[int, Save] = {}
        self.notes: deque[Note] = deque(maxlen=MAX_NOTES)
        self.lanes: list[Lane] = []
        self._meters: list[Meter] = []
        self._num_saved = 0
        self._num_stepped = 0
        self.seed = seed
        self._stand(Snapshot((opening.begin(self.modules[anchor], anchor, seed),), seed))

    # -- streaming ------------------------------------------------------------------------------

    def step(self) -> list[Made]:
        """Make the next chunk of every lane.

        Whatever is raised leaves all lanes where they stood; they need ``recover`` before the next step.
        """
        look = self._num_stepped % LOOK_EVERY == 0
        self._num_stepped += 1
        before = self.snapshot()
        self._before = before
        made = []
        for lane, meter in zip(self.lanes, self._meters, strict=True):
            prompt = lane.at.prompt
            chunk = lane.step(look=look)
            reading = meter.read(chunk.video_FCHW, prompt)
            made.append(Made(lane.at, chunk, reading, lane.has_hidden))
        return made

    def recover(self, *, anew: bool = False) -> None:
        """Go on after an error: from before the failed chunk, or from the very beginning.

        Args:
            anew: Begin again; where the lanes stood is kept as a save.
        """
        if not anew:
            self._stand(self._before)
            return
        self._keep("before the error", self._before)
        self.restart()

    def snapshot(self) -> Snapshot:
        """Return where the session stands."""
        return Snapshot(tuple(lane.at for lane in self.lanes), self.seed)

    # -- what people do -------------------------------------------------------------------------

    def change(
        self,
        policy: LivePolicy,
        *,
        prompt: str | None = None,
        frames: int | None = None,
        lane: int | None = None,
    ) -> None:
        """Switch the prompt, flush or cut at the start of the next chunk.

        Args:
            policy: What happens to the cache.
            prompt: The new prompt; ``None`` keeps it.
            frames: Frames encoded anew or left; ``None`` is the policy's own number.
            lane: Which lane; ``None`` is all.

        Raises:
            ValueError: If the prompt cannot be encoded, too much waits, or there is no such lane. Nothing has changed.
        """
        before = self.snapshot()
        try:
            for each in self._asked(lane):
                self.lanes[each].change(policy, prompt=prompt, frames=frames)
        except ValueError:
            self._stand(before)
            raise
        self._note(policy if prompt is None else f"{prompt} ({policy})", lane)

    def set_anchor(self, name: str, *, lane: int = 0) -> None:
        """Go on with another anchor, which begins empty; the window stays.

        Raises:
            ValueError: If there is no such anchor or lane.
        """
        (number,) = self._asked(lane)
        lanes = list(self.snapshot().lanes)
        lanes[number] = with_anchor(lanes[number], name, self.modules)
        self._stand(Snapshot(tuple(lanes), self.seed))
        self._note(f"anchor {name}", lane)

    def branch(self, anchor: str | None = None) -> None:
        """Let a second lane go on from where the first one stands, in place of the one that was there.

        Args:
            anchor: An anchor that begins empty there; ``None`` keeps the first lane's with its contents.

        Raises:
            ValueError: If there is no such anchor.
        """
        first = self.snapshot().lanes[0]
        second = first if anchor is None else with_anchor(first, anchor, self.modules)
        self._stand(Snapshot((first, second), self.seed))
        self._note("branched" if anchor is None else f"branched with {anchor}", 1)

    def close(self, *, lane: int = 1) -> None:
        """End a lane; the other one becomes the first.

        Raises:
            ValueError: If there is no such lane, or it is the only one.
        """
        (number,) = self._asked(lane)
        if len(self.lanes) == 1:
            raise ValueError("the only lane cannot be closed")
        lanes = [at for index, at in enumerate(self.snapshot().lanes) if index != number]
        self._stand(Snapshot(tuple(lanes), self.seed))
        self._note("closed", number)

    def save(self, label: str = "") -> int:
        """Keep where the session stands; return the save's number.

        Raises:
            ValueError: If there are as many saves as there may be.
        """
        if len(self.saves) >= MAX_SAVES:
            raise ValueError(f"there are {MAX_SAVES} saves already; delete one")
        chunk = self.lanes[0].at.state.chunk
        return self._keep(label or f"chunk {chunk}", self.snapshot())

    def restore(self, number: int, *, lane: int | None = None) -> None:
        """Bring a save back, anchors and their contents included.

        Args:
            number: The save.
            lane: Bring its first lane back as this one, which is opened if it is the second; ``None`` brings all back.

        Raises:
            ValueError: If there is no such save or lane, or its seed is another than that of the lane that stays.
        """
        save = self._saved(number)
        wanted = save.snapshot
        if lane is not None:
            if not 0 <= lane <= min(len(self.lanes), MAX_LANES - 1):
                raise ValueError(f"there is no lane {lane}")
            lanes = list(self.snapshot().lanes)
            if wanted.seed != self.seed and len({*range(len(lanes))} - {lane}):
                raise ValueError("a save of another seed cannot stand beside this lane")
            lanes[lane : lane + 1] = wanted.lanes[:1]
            wanted = replace(wanted, lanes=tuple(lanes))
        self._stand(wanted)
        self._note(f"restored {save.label}", lane)

    def forget(self, number: int) -> None:
        """Delete a save.

        Raises:
            ValueError: If there is no such save.
        """
        self._saved(number)
        del self.saves[number]

    def restart(self, seed: int | None = None) -> None:
        """Begin all lanes anew with their anchors.

        Args:
            seed: Of noise and given frames; ``None`` keeps it.
        """
        seed = self.seed if seed is None else seed
        names = [lane.at.anchor for lane in self.lanes]
        lanes = tuple(self.opening.begin(self.modules[name], name, seed) for name in names)
        self._meters = []
        self._stand(Snapshot(lanes, seed))
        self._note(f"began anew with seed {seed}", None)

    def stand(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot, of this session or a saved one.

        Raises:
            ValueError: If it names an anchor that this session has not.
        """
        unknown = [at.anchor for at in snapshot.lanes if at.anchor not in self.modules]
        if unknown:
            raise ValueError(
                f"it streams with the anchor {unknown[0]!r}, and there are only {', '.join(self.modules)}"
            )
        self._stand(snapshot)

    # -- within ---------------------------------------------------------------------------------

    def _stand(self, snapshot: Snapshot) -> None:
        new_seed = snapshot.seed != self.seed
        self.seed = snapshot.seed
        self.lanes = [Lane(self.modules[at.anchor], at) for at in snapshot.lanes]
        kept = [] if new_seed else self._meters[: len(self.lanes)]
        for meter in kept:
            meter.forget()
        missing = len(self.lanes) - len(kept)
        self._meters = [*kept, *(self.opening.meter(self.seed) for _ in range(missing))]
        self._before = snapshot

    def _keep(self, label: str, snapshot: Snapshot) -> int:
        self._num_saved += 1
        self.saves[self._num_saved] = Save(label, snapshot)
        while len(self.saves) > MAX_SAVES:  # of errors only
            del self.saves[min(self.saves)]
        return self._num_saved

    def _saved(self, number: int) -> Save:
        if number not in self.saves:
            raise ValueError(f"there is no save {number}")
        return self.saves[number]

    def _asked(self, lane: int | None) -> Sequence[int]:
        if lane is None:
            return range(len(self.lanes))
        if not 0 <= lane < len(self.lanes):
            raise ValueError(f"there is no lane {lane}")
        return (lane,)

    def _note(self, text: str, lane: int | None) -> None:
        self.notes.append(Note(self.lanes[0].at.state.chunk, lane, text))
