"""Lightning's progress bar for runs whose length is given in steps."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar

NO_LIMIT = "/-2"
"""What Lightning writes behind the epoch where it has no last one."""


class OpenEndedProgressBar(RichProgressBar):
    """Show no last epoch where there is none."""

    def _get_train_description(self, current_epoch: int) -> str:
        """Return ``Epoch 3``; Lightning's own says ``Epoch 3/-2``, and offers no setting."""
        return super()._get_train_description(current_epoch).replace(NO_LIMIT, "")


def show_no_wrong_epoch(trainer: Trainer) -> None:
    """Exchange the progress bar that a trainer has made for itself; one of the user's, with options, stays."""
    callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
    for place, callback in enumerate(callbacks):
        if type(callback) is RichProgressBar:
            callbacks[place] = OpenEndedProgressBar()
