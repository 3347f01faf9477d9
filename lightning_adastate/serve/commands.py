"""What a viewer may ask for: messages, checked before they reach the session."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import get_args

from lightning_adastate.serve.lane import LivePolicy
from lightning_adastate.serve.session import LiveSession

MAX_MESSAGE = 16 * 1024
"""Bytes of a message."""

MAX_PROMPT = 2000
"""Characters of a prompt."""

MAX_LABEL = 60
MAX_FRAMES = 256
MAX_SEED = 2**53 - 1
"""Numbers beyond it are not exact in JavaScript."""


class Command(ABC):
    """Something a viewer asks for. Its fields are the message's."""

    @abstractmethod
    def apply(self, session: LiveSession) -> None:
        """Do it.

        Raises:
            ValueError: If it cannot be done; the session is as it was.
        """


@dataclass(frozen=True)
class ChangeCommand(Command):
    """Switch the prompt, flush or cut."""

    policy: str = "recache"
    prompt: str | None = None
    frames: int | None = None
    lane: int | None = None

    def apply(self, session: LiveSession) -> None:
        """Change the lanes."""
        policies: tuple[LivePolicy, ...] = get_args(LivePolicy)
        found = [each for each in policies if each == self.policy]
        if not found:
            raise ValueError(f"`policy` is one of {', '.join(policies)}, got {self.policy!r}")
        prompt = None if self.prompt is None else clean_text(self.prompt, "prompt", MAX_PROMPT)
        _check_range("frames", self.frames, 1, MAX_FRAMES)
        session.change(found[0], prompt=prompt, frames=self.frames, lane=self.lane)


@dataclass(frozen=True)
class AnchorCommand(Command):
    """Go on with another anchor."""

    name: str
    lane: int = 0

    def apply(self, session: LiveSession) -> None:
        """Change the anchor."""
        session.set_anchor(self.name, lane=self.lane)


@dataclass(frozen=True)
class BranchCommand(Command):
    """Open the second lane."""

    anchor: str | None = None

    def apply(self, session: LiveSession) -> None:
        """Branch."""
        session.branch(self.anchor)


@dataclass(frozen=True)
class CloseCommand(Command):
    """End a lane."""

    lane: int = 1

    def apply(self, session: LiveSession) -> None:
        """Close it."""
        session.close(lane=self.lane)


@dataclass(frozen=True)
class SaveCommand(Command):
    """Keep where the session stands."""

    label: str = ""

    def apply(self, session: LiveSession) -> None:
        """Save."""
        session.save(clean_text(self.label, "label", MAX_LABEL) if self.label else "")


@dataclass(frozen=True)
class RestoreCommand(Command):
    """Bring a save back."""

    save: int
    lane: int | None = None

    def apply(self, session: LiveSession) -> None:
        """Restore."""
        session.restore(self.save, lane=self.lane)


@dataclass(frozen=True)
class ForgetCommand(Command):
    """Delete a save."""

    save: int

    def apply(self, session: LiveSession) -> None:
        """Forget it."""
        session.forget(self.save)


@dataclass(frozen=True)
class RestartCommand(Command):
    """Begin anew."""

    seed: int | None = None

    def apply(self, session: LiveSession) -> None:
        """Restart."""
        _check_range("seed", self.seed, 0, MAX_SEED)
        session.restart(self.seed)


COMMANDS: dict[str, type[Command]] = {
    "change": ChangeCommand,
    "anchor": AnchorCommand,
    "branch": BranchCommand,
    "close": CloseCommand,
    "save": SaveCommand,
    "restore": RestoreCommand,
    "forget": ForgetCommand,
    "restart": RestartCommand,
}


def read_message(text: str) -> dict[str, object]:
    """Return a message as it came: a mapping with a ``type``.

    Raises:
        ValueError: If it is too long or is none.
    """
    if len(text.encode()) > MAX_MESSAGE:
        raise ValueError(f"a message has {MAX_MESSAGE} bytes at most")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("a message is a JSON object") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError("a message is a JSON object with a `type`")  # noqa: TRY004, as every mistake here
    return message


def read_command(message: dict[str, object]) -> Command:
    """Return the command that a message is.

    Raises:
        ValueError: Naming what is unknown, missing or of the wrong type.
    """
    given = {key: value for key, value in message.items() if key not in ("type", "id")}
    kind = COMMANDS.get(str(message["type"]))
    if kind is None:
        raise ValueError(f"`type` is one of {', '.join(COMMANDS)}, got {message['type']!r}"[:200])
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in given.items():
        if name not in fields:
            raise ValueError(f"{message['type']!r} has no {name!r}"[:200])
        if not _fits(value, str(fields[name].type)):
            raise ValueError(f"`{name}` must be {fields[name].type}, got {value!r}"[:200])
    missing = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and name not in given
    ]
    if missing:
        raise ValueError(f"{message['type']!r} needs `{missing[0]}`")
    return kind(**given)


def clean_text(text: str, name: str, longest: int) -> str:
    """Return a text without control characters and double spaces.

    Raises:
        ValueError: If nothing is left of it, or it is too long.
    """
    kept = "".join(" " if unicodedata.category(c).startswith("C") else c for c in text)
    cleaned = " ".join(kept.split())
    if not cleaned:
        raise ValueError(f"the {name} is empty")
    if len(cleaned) > longest:
        raise ValueError(f"the {name} has {len(cleaned)} characters, the most is {longest}")
    return cleaned


def _fits(value: object, wanted: str) -> bool:
    """Whether a JSON value is of an annotated type; true and false are no numbers."""
    if value is None:
        return wanted.endswith("None")
    kind = {"int": int, "str": str}[wanted.split(" ")[0]]
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_range(name: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise ValueError(f"`{name}` must be {least} to {most}, got {str(value)[:40]}")
