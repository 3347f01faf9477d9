"""The package keeps its shape: arrows point down, files stay short, nothing unsafe is loaded.

Six rules, each in one loop over all files that lists every offence.
"""

import ast
from pathlib import Path

import lightning_adastate

PACKAGE = Path(lightning_adastate.__file__).parent
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
    for path in sorted(PACKAGE.rglob("*.py"))
}

RANKS = (
    ("types", "kv", "files", "components"),
    ("rope", "flow", "noise", "worlds"),
    ("anchors", "caches", "schedules", "losses", "backbones", "metrics", "rewards", "media"),
    ("weights",),
    ("codecs", "text"),
    ("streaming",),
    ("data",),
    ("analysis", "rollouts", "evaluation"),
    ("callbacks",),
    ("training",),
    ("generation",),
    ("recipes",),
    ("memory", "studies", "serve"),
    ("doctor",),
    ("cli",),
    ("__main__", "__init__"),
    ("demo",),
)
"""Rooms by rank, the lowest first. Rooms of one rank do not import each other."""

RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}

LOOSE = {"types", "kv", "files", "rope", "flow", "noise", "demo", "__main__", "__init__"}
"""Modules that stand at the package's root."""

LONG = {"streaming/streamer.py": 490, "training/self_forcing.py": 420}
"""Files that may have more than 300 lines."""


def room(name):
    """The first part of a module's name: a family, or a module of its own."""
    return name.split("/")[0].removesuffix(".py")


def targets(tree):
    """The rooms of this package that a file imports from, at import time or later."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            modules = [node.module]
            if node.module == "lightning_adastate":  # names a room, or a lazy attribute
                modules = [f"lightning_adastate.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            first, *rest = module.split(".")
            if first == "lightning_adastate":
                yield rest[0] if rest and rest[0] in RANK else "__init__"


def test_imports_point_to_lower_ranks():
    wrong = [
        f"{name} imports {other}"
        for name, tree in TREES.items()
        for other in targets(tree)
        if other != room(name)
        and not RANK[other] < RANK[room(name)]
        and not (room(name) in ("kv", "types") and other in ("kv", "types"))
        and (room(name), other) != ("__main__", "__init__")
    ]
    assert wrong == []


def test_every_room_has_a_rank_and_only_a_few_modules_are_loose():
    assert {room(name) for name in TREES} == RANK.keys()
    assert {room(name) for name in TREES if "/" not in name} == LOOSE


def test_files_are_short_ascii_and_say_what_they_are():
    wrong = []
    for name, tree in TREES.items():
        text = (PACKAGE / name).read_text()
        lines = len(text.splitlines())
        if lines > LONG.get(name, 300):
            wrong.append(f"{name} has {lines} lines")
        if not text.isascii():
            wrong.append(f"{name} is not ASCII")
        if not ast.get_docstring(tree):
            wrong.append(f"{name} does not say what it is")
    assert wrong == []


def test_nothing_is_unpickled():
    wrong = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            safe = {k.arg: ast.unparse(k.value) for k in node.keywords}.get("weights_only")
            if called in {"pickle.load", "pickle.loads", "yaml.load"} or (
                called == "torch.load" and safe != "True"
            ):
                wrong.append(f"{name}:{node.lineno} {called}")
    assert wrong == []


def test_nothing_that_is_drawn_takes_the_default_dtype():
    """With Lightning's bf16-true that is bfloat16. Weights do, on purpose: they are built in the format they will have."""
    drawn = {"torch.randn", "torch.rand", "torch.linspace"}
    wrong = [
        f"{name}:{node.lineno} {ast.unparse(node.func)}"
        for name, tree in TREES.items()
        if room(name) != "backbones"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in drawn
        and "dtype" not in {keyword.arg for keyword in node.keywords}
    ]
    assert wrong == []


def test_streaming_needs_no_lightning():
    """Prompts to pixels is plain PyTorch, and so is everything below it."""
    wrong = [
        f"{name} imports {module}"
        for name, tree in TREES.items()
        if RANK[room(name)] <= RANK["streaming"]
        for node in ast.walk(tree)
        for module in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if module.split(".")[0] in ("lightning", "pytorch_lightning")
    ]
    assert wrong == []


def test_every_public_name_can_be_imported():
    assert [
        name for name in lightning_adastate.__all__ if not hasattr(lightning_adastate, name)
    ] == []
