"""The notebook of the demo: its cells run in their order, and nothing in it is left over from another run."""

import json
from pathlib import Path

import pytest

import lightning_adastate

BOOK = Path(lightning_adastate.__file__).parent.parent / "docs" / "demo.ipynb"
if not BOOK.exists():
    pytest.skip("no docs in an installed package", allow_module_level=True)
NOTEBOOK = json.loads(BOOK.read_text())
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_is_a_notebook_whose_links_lead_somewhere_and_whose_cells_ran_once_in_order():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    counts = [cell["execution_count"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert "Traceback" not in BOOK.read_text()
    assert BOOK.stat().st_size < 300_000


@pytest.mark.nightly
def test_its_cells_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {"__name__": "notebook"}
    for number, code in enumerate(CODE):
        exec(compile(code, f"{BOOK.name}, cell {number}", "exec"), names)  # noqa: S102
    printed = capsys.readouterr().out
    assert "the same twice: True" in printed
    assert "generator steps: 2" in printed
    arms = names["compared"].arms
    static, adaptive = (
        arms[name].scores[63].displacement.mean() for name in ("static", "adaptive")
    )
    assert adaptive > static + 0.2, "the hidden state moves where the static anchor stands still"
