"""The help of a verb on one screen: its own options first, one line each; long groups are named and left to `--help_all`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

LINES = 60
"""Most lines of a help that was not asked for in full."""

OWN_GROUPS = {"generate": "generation", "predict": "prediction"}
"""Options that a verb is about, where they are a group that other verbs know too."""

BEHIND = ("trainer",)
"""Groups of other people's options: they come last."""

NAMED = 38
"""Columns of an option and its value."""


@dataclass(frozen=True)
class OptionHelp:
    """What a help says of an option.

    Args:
        name: As it is written, with its value.
        text: What it is.
        default: Its default, or nothing.
    """

    name: str
    text: str
    default: str

    def line(self, width: int) -> str:
        """Return it in one line: the first sentence and the default, as far as they go."""
        sentence = first_sentence_of(self.text)
        default = f" [{self.default}]" if self.default else ""
        head = f"  {self.name}".ljust(NAMED)
        room = max(20, width - len(head) - len(default) - 1)
        if len(sentence) > room:
            sentence = sentence[: room - 3].rstrip() + "..."
        return f"{head} {sentence}{default}".rstrip()


@dataclass(frozen=True)
class OptionGroup:
    """Options that belong together.

    Args:
        key: First part of their names; empty where they have none in common.
        title: What they are.
        options: The options.
        takes_classes: Whether one of them is a class, whose own arguments are asked for by name.
    """

    key: str
    title: str
    options: tuple[OptionHelp, ...]
    takes_classes: bool

    def lines(self, width: int) -> list[str]:
        """Return the whole group."""
        title = first_sentence_of(self.title)
        return ["", f"{title}:", *(option.line(width) for option in self.options)]

    def line(self) -> str:
        """Return the group as one line."""
        return (
            f"  --{self.key}.*".ljust(NAMED)
            + f" {len(self.options)} options: {first_sentence_of(self.title)}"
        )


def first_sentence_of(text: str) -> str:
    """Return what stands before the first full stop or semicolon, in one line."""
    sentence = re.split(r"(?<=[.;])(?: |$)", " ".join(text.split()), maxsplit=1)[0]
    return sentence.rstrip(".;:").replace("``", "`")


def ordered(keys: Sequence[str], verb: str) -> list[int]:
    """Return the places of groups in the order they are shown: the verb's own, the rest, other people's.

    Args:
        keys: First parts of the groups' options.
        verb: The verb.
    """
    own = OWN_GROUPS.get(verb)
    return sorted(range(len(keys)), key=lambda i: (keys[i] in BEHIND, keys[i] != own, i))


def short_help(
    prog: str, positionals: Sequence[str], description: str, groups: Sequence[OptionGroup]
) -> str:
    """Return a help of at most ``LINES`` lines, if its undivided part is not longer by itself.

    Groups of other people's options are left to ``--help_all``; then, until the rest fits, the largest groups.

    Args:
        prog: The program and the verb.
        positionals: Arguments that stand by themselves.
        description: What the verb does.
        groups: Its options, in the order they are shown.
    """
    width = max(80, shutil.get_terminal_size((110, 24)).columns)
    verb = prog.split()[-1]
    recipe = (
        "[--config NAME]" if any("--config" in o.name for g in groups for o in g.options) else ""
    )
    words = [f"usage: {prog}", *(name.upper() for name in positionals), recipe, "[options]"]
    usage = " ".join(word for word in words if word)
    head = [usage, "", *description.strip().splitlines()]
    own = OWN_GROUPS.get(verb)
    whole = [group for group in groups if not (group.key in BEHIND and len(group.options) > 3)]
    left = [group for group in groups if group not in whole]
    while _length(head, whole, left, width) > LINES:
        large = [group for group in whole if group.key and group.key != own]
        if not large:
            break
        largest = max(large, key=lambda group: len(group.options))
        whole.remove(largest)
        left.append(largest)
    return "\n".join(_lines(head, whole, left, width)) + "\n"


def _length(
    head: Sequence[str], whole: Sequence[OptionGroup], left: Sequence[OptionGroup], width: int
) -> int:
    return len(_lines(head, whole, left, width))


def _lines(
    head: Sequence[str], whole: Sequence[OptionGroup], left: Sequence[OptionGroup], width: int
) -> list[str]:
    lines = [*head]
    for group in whole:
        lines += group.lines(width)
    if left:
        lines += ["", "shown by --help_all:", *(group.line()[:width] for group in left)]
    if any(group.takes_classes for group in whole):
        lines += [
            "",
            "Arguments of a class: --NAME.help CLASS, for example --model.help SelfForcing",
        ]
    return lines
