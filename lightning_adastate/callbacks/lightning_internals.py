"""What we need of Lightning's inner parts because its Trainer has no public way to say it; nowhere else in this room."""

from __future__ import annotations

from lightning.pytorch import Trainer


def stop_now(trainer: Trainer) -> None:
    """End the fit after the batch in hand.

    ``Trainer.should_stop`` is the public way, but it waits for ``min_epochs`` and ``min_steps``, and a run that is
    killed has no time for them. ``min_steps`` belongs to the inner loop and can be set only there.
    """
    trainer.fit_loop.min_epochs = 0
    trainer.fit_loop.epoch_loop.min_steps = None
    trainer.should_stop = True
