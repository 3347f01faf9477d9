"""A live page: one session that streams while it generates, for any number of viewers."""

from lightning_adastate.serve.lane import Lane, LaneChunk, LaneState
from lightning_adastate.serve.live import BusyError, LiveStream
from lightning_adastate.serve.meters import Meter, PanMeter, Reading
from lightning_adastate.serve.opening import Opening, PromptOpening, WorldOpening
from lightning_adastate.serve.session import LiveSession
from lightning_adastate.serve.session_file import load_session, save_session
from lightning_adastate.serve.snapshot import Made, Save, Snapshot
from lightning_adastate.serve.viewer import Viewer

__all__ = [
    "BusyError",
    "Lane",
    "LaneChunk",
    "LaneState",
    "LiveSession",
    "LiveStream",
    "Made",
    "Meter",
    "Opening",
    "PanMeter",
    "PromptOpening",
    "Reading",
    "Save",
    "Snapshot",
    "Viewer",
    "WorldOpening",
    "load_session",
    "save_session",
]
