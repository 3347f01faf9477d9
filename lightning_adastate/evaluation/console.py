"""A console on which wide tables fit."""

from __future__ import annotations

from rich.console import Console

TABLE_WIDTH = 170
"""Columns of text the tables need."""


def wide_console() -> Console:
    """Return a console on which the tables fit, whatever the output is piped into."""
    console = Console()
    return console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)
