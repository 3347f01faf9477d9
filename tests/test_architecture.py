"""The package keeps its shape: arrows point down, files stay short, nothing unsafe is loaded."""

import ast
from pathlib import Path

import pytest

import lightning_adastate

PACKAGE = Path(lightning_adastate.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
IDS = [path.relative_to(PACKAGE).as_posix() for path in FILES]

RANKS = {
    "kv": 0,
    "types": 0,
    "rope": 1,
    "events": 1,
    "flow": 1,
    "noise": 1,
    "weight_names": 1,
    "worlds": 1,
    "anchors": 2,
    "caches": 2,
    "schedules": 2,
    "losses": 2,
    "backbones": 2,
    "codecs": 2,
    "text": 2,
    "metrics": 2,
    "rewards": 2,
    "video": 2,
    "checkpoints": 3,
    "weight_files": 1,
    "weights": 3,
    "pictures": 3,
    "symbols": 3,
    "layout": 3,
    "layout_text": 3,
    "layout_pictures": 3,
    "costs": 3,
    "scratch": 3,
    "attention_pictures": 3,
    "attention_probe": 3,
    "memory": 3,
    "stream_memory": 3,
    "rollouts": 3,
    "streamer": 3,
    "chunk_plan": 3,
    "chunk_run": 3,
    "chunk_close": 3,
    "pass_graphs": 3,
    "denoising": 3,
    "training": 4,
    "data": 4,
    "callbacks": 5,
    "cli": 6,
    "demo": 7,
    "__main__": 7,
    "__init__": 7,
}
LONG = {
    "streamer.py": 480,
    "backbones/wan.py": 400,
    "cli/replay.py": 330,
    "training/self_forcing.py": 400,
}


def room(path):
    """The first part of a module's name: a family, or a module of its own."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree):
    """Every module of this package that is imported at import time or later, with its names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []


def targets(tree):
    """The rooms of this package that a file imports from."""
    for module, names in imports(tree):
        parts = module.split(".")
        if parts[0] != "lightning_adastate":
            continue
        if len(parts) > 1:
            yield parts[1]
        else:
            # `from lightning_adastate import x` may name a room or a lazy attribute.
            yield from (name if name in RANKS else "__init__" for name in names or ["__init__"])


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_imports_point_to_lower_ranks(path):
    own = room(path)
    assert own in RANKS, f"give {own!r} a rank in tests/test_architecture.py and DESIGN.md"
    for other in targets(ast.parse(path.read_text())):
        assert other in RANKS, f"{own} imports {other}, which has no rank"
        same_room = other == own
        plain_modules = RANKS[other] == RANKS[own] and not (PACKAGE / other).is_dir()
        top = own == "__main__" and other == "__init__"
        assert same_room or plain_modules or top or RANKS[other] < RANKS[own], (
            f"{path.name}: {own} (rank {RANKS[own]}) imports {other} (rank {RANKS[other]})"
        )


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_files_stay_short(path):
    cap = LONG.get(path.relative_to(PACKAGE).as_posix(), 300)
    assert len(path.read_text().splitlines()) <= cap


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_files_are_ascii_and_have_a_docstring(path):
    text = path.read_text()
    assert text.isascii()
    assert ast.get_docstring(ast.parse(text)), "say in one line what the file is"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_nothing_is_unpickled(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        assert name not in {"pickle.load", "pickle.loads", "yaml.load"}
        if name == "torch.load":
            safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
            assert safe == "True", "torch.load needs weights_only=True"


def by_kind(name):
    """Order as ruff does: CONSTANTS, Classes, functions."""
    constant = name.isupper() and len(name) > 1
    return not constant, not name[0].isupper(), name


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_all_is_sorted_and_complete(path):
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != "__all__":
            continue
        if isinstance(node.value, ast.List) and all(
            isinstance(item, ast.Constant) for item in node.value.elts
        ):
            names = ast.literal_eval(node.value)
            assert names == sorted(names, key=by_kind)


def test_every_public_name_can_be_imported():
    assert [
        name for name in lightning_adastate.__all__ if not hasattr(lightning_adastate, name)
    ] == []
