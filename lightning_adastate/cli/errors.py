"""Errors as one sentence, and a parser that gives them."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import re
import sys
import typing
from collections.abc import Iterator, Sequence
from typing import IO, NoReturn

import jsonargparse._typehints as typehints
from jsonargparse import ArgumentParser, Namespace
