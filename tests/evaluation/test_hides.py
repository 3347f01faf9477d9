"""The table of hides: of the streams that came so far, how many kept their hero."""

import io

from rich.console import Console

from lightning_adastate.evaluation.arms import Arm
from lightning_adastate.evaluation.tables import retention_table, shown_scores, write_retention
from lightning_adastate.metrics.pan_identity import HeroCycle

KEPT, LOST, NEVER = HeroCycle(3, 9, True), HeroCycle(12, 18, False), HeroCycle(20, None, False)


def arm(*cycles):
    return Arm(None, None, {}, cycles)


ARMS = {"one": arm([KEPT, LOST], [KEPT, NEVER], []), "two": arm([LOST])}


def test_the_table_counts_streams_per_hide():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(retention_table(ARMS))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert ["│", "one", "│", "2", "/", "2", "│", "0", "/", "2", "│"] in rows
    assert ["│", "two", "│", "0", "/", "1", "│", "│"] in rows


def test_a_world_without_hides_has_no_such_table_and_columns():
    assert retention_table({"one": arm([])}) is None
    assert "retention" not in shown_scores({"one": arm()})
    assert "retention" in shown_scores(ARMS)


def test_every_hide_is_a_row_and_a_hero_that_never_came_has_no_frame(tmp_path):
    write_retention(ARMS, tmp_path / "retention.csv")
    assert (tmp_path / "retention.csv").read_text().splitlines()[1:] == [
        "one,0,1,3,9,1",
        "one,0,2,12,18,0",
        "one,1,1,3,9,1",
        "one,1,2,20,,0",
        "two,0,1,12,18,0",
    ]
