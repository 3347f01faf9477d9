"""The process that decodes videos: started when it is wanted, used for many files, replaced when it dies."""

# Shapes: F frames, H W height / width in pixels; pictures are uint8 [F, H, W, 3].

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PROGRAM = Path(__file__).with_name("decoder.py")

MAX_IDLE = 8
"""Processes that are kept for the next file."""

MAX_HEAD = 1 << 20
"""Bytes of an answer without its pixels."""


class DecodingLimits(NamedTuple):
    """What a video may take of the process that decodes it.

    Args:
        memory_bytes: Address space, everything included.
        cpu_seconds: Time on a processor for a piece of frames, or for some hundred that are only counted.
        seconds: Time by the clock for the same.
        max_pixels: Of a picture.
        max_fps: Frames per second.
    """

    memory_bytes: int = 6 << 30
    cpu_seconds: int = 120
    seconds: float = 300.0
    max_pixels: int = 8192 * 8192
    max_fps: float = 1000.0


class _Died(Exception):  # noqa: N818
    """The process is gone, or had to go."""


class Decoder:
    """A process that decodes, one request at a time.

    Args:
        limits: Its limits.
    """

    def __init__(self, limits: DecodingLimits) -> None:
        self.limits = limits
        numbers = [str(limits.memory_bytes), str(limits.cpu_seconds)]
        # -I: neither the working directory nor the environment has a say in what is imported.
        self.process = subprocess.Popen(
            [sys.executable, "-I", str(PROGRAM), *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the one who asked
        )

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any] | np.ndarray]:
        """Yield the answers to a request: pixels as arrays, all others as they are.

        Raises:
            ValueError: If the file is refused, or the process dies of it; it is named.
        """
        limits, path = self.limits, request["path"]
        caps = {
            "folder": os.getcwd(),
            "max_pixels": limits.max_pixels,
            "max_fps": limits.max_fps,
        }
        try:
            self._send(json.dumps({**request, **caps}).encode() + b"\n")
            while True:
                deadline = time.monotonic() + limits.seconds
                (length,) = struct.unpack("<I", self._receive(4, deadline).tobytes())
                if length > MAX_HEAD:
                    raise _Died("it answers nonsense")
                found: dict[str, Any] = json.loads(self._receive(length, deadline).tobytes())
                if "end" in found:
                    return
                if "error" in found:
                    raise ValueError(found["error"])
                if "shape" in found:
                    yield self._receive(int(np.prod(found["shape"])), deadline).reshape(
                        found["shape"]
                    )
                elif found:
                    yield found
        except _Died as reason:
            self.close()
            raise ValueError(
                f"video file '{path}' cannot be decoded: {reason}; it is broken, or made to do harm"
            ) from None

    def close(self) -> None:
        """End it."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.process.wait()

    def _send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except BrokenPipeError:
            raise _Died(self._end()) from None

    def _receive(self, count: int, deadline: float) -> np.ndarray:
        """Return so many bytes."""
        assert self.process.stdout is not None
        data = np.empty(count, np.uint8)
        view, done = data.data, 0
        pipe = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        while done < count:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise _Died(f"it took more than {self.limits.seconds:g} seconds")
            got = os.readv(pipe, [view[done:]])
            if not got:
                raise _Died(self._end())
            done += got
        return data

    def _end(self) -> str:
        """Say how the process ended."""
        code = self.process.wait()
        if code == -signal.SIGXCPU:
            return f"it took more than {self.limits.cpu_seconds} seconds of processor time"
        if code < 0:
            return f"the decoder died of {signal.Signals(-code).name}"
        return f"the decoder ended with code {code}"


class _Pool:
    """Processes that wait for the next file. Those of a parent process are none of ours."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.idle: list[Decoder] = []

    def take(self, limits: DecodingLimits) -> Decoder:
        """Return one that waits, or a new one."""
        with self.lock:
            for decoder in [each for each in self.idle if each.limits == limits]:
                self.idle.remove(decoder)
                if decoder.is_alive:
                    return decoder
        return Decoder(limits)

    def give_back(self, decoder: Decoder) -> None:
        """Let one wait that has answered."""
        with self.lock:
            if len(self.idle) < MAX_IDLE:
                self.idle.append(decoder)
                return
        decoder.close()

    def close(self) -> None:
        """End those that wait."""
        with self.lock:
            idle, self.idle = self.idle, []
        for decoder in idle:
            decoder.close()

    def forget(self) -> None:
        """Begin anew in a child process: the parent's pipes are not to be read twice."""
        self.lock = threading.Lock()
        self.idle = []


_pool = _Pool()
atexit.register(_pool.close)
os.register_at_fork(after_in_child=_pool.forget)


def ask(request: dict[str, Any], limits: DecodingLimits) -> Iterator[dict[str, Any] | np.ndarray]:
    """Yield the answers to a request of a process that waits, or of a new one.

    Raises:
        ValueError: If the file is refused, or takes the process down; it is named.
    """
    decoder = _pool.take(limits)
    whole = False
    try:
        yield from decoder.ask(request)
        whole = True
    except ValueError:
        whole = decoder.is_alive  # it has said so itself, and waits
        raise
    finally:
        if whole:
            _pool.give_back(decoder)
        else:
            decoder.close()  # of an answer that nobody wanted to the end, the rest is still in the pipe


def as_pair(fps: Fraction | None) -> list[int] | None:
    """Return a rate as JSON can say it."""
    return None if fps is None else [fps.numerator, fps.denominator]
