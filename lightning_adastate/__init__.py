"""Streaming autoregressive video diffusion with pluggable anchors."""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

# Importing torch and Lightning takes seconds; `--version`, `--help` and the parsers need neither. The public names
# stand in __init__.pyi, for type checkers and for this line alike; each is imported when it is first used (PEP 562).
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)

__all__ = ["__version__", *_names]  # noqa: PLE0604
