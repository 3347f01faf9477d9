"""One generating session, any number of viewers: paced to real time, paused when nobody watches, restarted after errors."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lightning_adastate.serve.commands import Command
from lightning_adastate.serve.messages import pack_chunk, status_message
from lightning_adastate.serve.session import LiveSession
from lightning_adastate.serve.snapshot import Snapshot
from lightning_adastate.serve.viewer import Viewer

log = logging.getLogger(__name__)

MAX_ERRORS = 3
"""Errors in a row after which a stream waits for somebody to begin it anew."""

T = TypeVar("T")


class BusyError(Exception):
    """There are as many viewers as there may be."""


class LiveStream:
    """Drive a session for its viewers.

    All work of the model is done in one thread, commands between two chunks. Everything else belongs to one event loop.

    Args:
        session: What streams.
        fps: Frames per second of the video; chunks are made as fast as they are watched, not faster.
        max_viewers: How many may watch.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, session: LiveSession, *, fps: int = 12, max_viewers: int = 64) -> None:
        for name, number in (("fps", fps), ("max_viewers", max_viewers)):
            if number < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {number}")
        self.session = session
        self.fps = fps
        self.max_viewers = max_viewers
        self.viewers: set[Viewer] = set()
        self.is_paused = False
        self.num_chunks = 0
        self.num_errors = 0
        self._errors_in_a_row = 0
        self._newest: bytes | None = None
        self._thread = ThreadPoolExecutor(1, "stream")
        self._watched = asyncio.Event()
        self._stopped = asyncio.Event()
        self._error_ids = itertools.count(1)
        self._status = status_message(session, **self._pace())

    # -- viewers --------------------------------------------------------------------------------

    def join(self) -> Viewer:
        """Return the queue of a new viewer, with what is newest in it.

        Raises:
            BusyError: If there are too many.
        """
        if len(self.viewers) >= self.max_viewers:
            raise BusyError(f"{self.max_viewers} people are watching already; come back later")
        viewer = Viewer()
        self.viewers.add(viewer)
        if self._newest is not None:
            viewer.offer(self._newest)
        self._wake()
        self._tell()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer; leaving twice is harmless."""
        self.viewers.discard(viewer)
        self._wake()
        self._tell()

    def pause(self, *, on: bool) -> None:
        """Stop for everybody after the chunk at work, or go on."""
        self.is_paused = on
        if not on:
            self._errors_in_a_row = 0
        self._wake()
        self._tell()

    async def do(self, command: Command) -> None:
        """Do what is asked for before the next chunk.

        Raises:
            ValueError: If it cannot be done.
            RuntimeError: If the model failed at it; the text has the number of the error in the log.
        """
        done = await self._in_thread(lambda: self._apply(command))
        error = done.exception()
        if isinstance(error, ValueError):
            raise error
        if error is not None:
            raise RuntimeError(self._note_error(error))
        self._errors_in_a_row = 0
        self._status_is(done.result())

    # -- the stream -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Stream while somebody watches, until ``stop``."""
        due = time.monotonic()
        while not self._stopped.is_set():
            if not self._watched.is_set():
                await self._first_of(self._watched.wait())
                due = time.monotonic()
                continue
            begin = time.monotonic()
            done = await self._in_thread(self._make)
            if (error := done.exception()) is not None:
                await self._recover(error)
                continue
            message, status, frames = done.result()
            self._errors_in_a_row = 0
            self.num_chunks += 1
            self._newest = message
            for viewer in self.viewers:
                viewer.offer(message)
            self._status_is(status)
            # Who is late does not hurry afterwards: a burst would only be dropped.
            due = max(due, begin) + frames / self.fps
            await self._first_of(asyncio.sleep(max(0.0, due - time.monotonic())))

    async def stop(self) -> Snapshot:
        """End after the chunk at work, and return where the session stands."""
        self._stopped.set()
        done = await self._in_thread(self.session.snapshot)
        self._thread.shutdown(wait=True)
        return done.result()

    # -- within ---------------------------------------------------------------------------------

    def _make(self) -> tuple[bytes, str, int]:
        begin = time.perf_counter()
        made = self.session.step()
        seconds = time.perf_counter() - begin
        message = pack_chunk(made, fps=self.fps, seconds=seconds)
        frames = min(len(lane.chunk.video_FCHW) for lane in made)
        return message, status_message(self.session), frames

    def _apply(self, command: Command) -> str:
        command.apply(self.session)
        return status_message(self.session)

    async def _recover(self, error: BaseException) -> None:
        """Tell everybody, and go on: from before the chunk, at the second time anew, at the third not at all."""
        self._errors_in_a_row += 1
        text = self._note_error(error)
        again = self._errors_in_a_row
        done = await self._in_thread(lambda: self.session.recover(anew=again > 1))
        failed = done.exception()
        if failed is not None:
            text = self._note_error(failed)
        if failed is not None or again >= MAX_ERRORS:
            self.is_paused = True
            text += "; it waits until somebody goes on"
        else:
            text += "; it begins anew" if again > 1 else "; the chunk is made again"
        self._wake()
        for viewer in self.viewers:
            viewer.answer(json.dumps({"type": "error", "text": text}))
        status = await self._in_thread(lambda: status_message(self.session))
        self._status_is(status.result())

    def _note_error(self, error: BaseException) -> str:
        """Write an error to the log and return what viewers are told: its number, and no trace."""
        self.num_errors += 1
        number = next(self._error_ids)
        log.error("error %d of the stream", number, exc_info=error)
        return f"the model failed ({type(error).__name__}, number {number} in the server's log)"

    def _pace(self) -> dict[str, object]:
        return {"fps": self.fps, "paused": self.is_paused, "viewers": len(self.viewers)}

    def _status_is(self, status: str) -> None:
        self._status = status
        self._tell()

    def _tell(self) -> None:
        status = json.dumps({**json.loads(self._status), **self._pace()})
        for viewer in self.viewers:
            viewer.tell(status)

    def _wake(self) -> None:
        if self.viewers and not self.is_paused:
            self._watched.set()
        else:
            self._watched.clear()

    async def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do something in the model's thread and return its future, done: what it raised is for the caller to look at."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        await asyncio.wait([future])
        return future

    async def _first_of(self, waiting: object) -> None:
        """Wait for something, or until it is stopped."""
        tasks = [asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopped.wait())]  # type: ignore[call-overload]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
