"""What `serve` is told beside its configuration."""

from __future__ import annotations

import itertools
from pathlib import Path

AUTO_STATE = "outputs/serve.safetensors"
"""Where a session goes that has no name: there, or beside it under the next free number."""


class Serving:
    """How a stream is served.

    Args:
        host: Address to bind to. Beyond this machine everybody needs the token in the printed address.
        port: Port; 0 takes any that is free.
        token: Needed by everybody who connects; ``None`` makes one where the host is not this machine.
        prompt: The first prompt; ``None`` is that of the world's episode, or of the recipe.
        anchor: Name of the anchor to begin with; ``None`` is the configuration's last or only one.
        seed: Seed of the noise, and of the episode where there is a world.
        fps: Frames per second; chunks are made as fast as they are watched.
        max_viewers: How many may watch.
        state_in: Go on with the session saved here.
        state_out: Where the session is saved when the server stops. ``auto`` is outputs/serve.safetensors, or the
            next free number beside it.
        device: ``auto`` is CUDA if there is one.

    Raises:
        ValueError: If a number is out of range, or a name has the wrong ending.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        prompt: str | None = None,
        anchor: str | None = None,
        seed: int = 0,
        fps: int = 12,
        max_viewers: int = 64,
        state_in: str | None = None,
        state_out: str = "auto",
        device: str = "auto",
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"`port` must be 0 to 65535, got {port}")
        for name, number in (("fps", fps), ("max_viewers", max_viewers)):
            if number < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {number}")
        if seed < 0:
            raise ValueError(f"`seed` must be 0 or more, got {seed}")
        if state_out != "auto" and Path(state_out).suffix != ".safetensors":
            raise ValueError(f"`state_out` must end in .safetensors, got {state_out!r}")
        if state_in is not None and not Path(state_in).is_file():
            raise ValueError(f"there is no session {state_in!r}")
        self.host = host
        self.port = port
        self.token = token
        self.prompt = prompt
        self.anchor = anchor
        self.seed = seed
        self.fps = fps
        self.max_viewers = max_viewers
        self.state_in = state_in
        self.state_out = state_out
        self.device = device

    def state_path(self) -> Path:
        """Return where the session is saved: never in place of one that has no name."""
        if self.state_out != "auto":
            return Path(self.state_out)
        first = Path(AUTO_STATE)
        others = (first.with_name(f"{first.stem}_{n}{first.suffix}") for n in itertools.count(2))
        return next(path for path in itertools.chain([first], others) if not path.exists())
