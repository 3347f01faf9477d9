"""What the docs name is there: paths, classes, tests, links, and the sentences that troubleshooting quotes."""

import ast
import functools
import re
from pathlib import Path

import pytest

import lightning_adastate

ROOT = Path(lightning_adastate.__file__).parent.parent
DOCS = ROOT / "docs"
if not DOCS.exists():
    pytest.skip("no docs in an installed package", allow_module_level=True)
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}


@functools.cache
def defined(path):
    """Names of all functions and classes of a file."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def missing(text):
    """Paths, and names in them, that a text has and the repository has not."""
    named = re.findall(
        r"`((?:tests|lightning_adastate|configs|docs|benchmarks)/[\w./]*\w/?)(?:::(\w+))?`", text
    )
    for path, name in named:
        if not (ROOT / path).exists():
            yield path
        elif name and name not in defined(path):
            yield f"{path}::{name}"


def test_every_path_and_name_in_the_docs_is_there():
    assert {page: list(missing(text)) for page, text in PAGES.items() if any(missing(text))} == {}


def test_every_equation_has_a_function_and_a_test():
    parts = re.split(r"^## ", PAGES["equations.md"], flags=re.MULTILINE)[1:]
    numbers = [int(found[1]) for part in parts if (found := re.match(r"Eq\. (\d)", part))]
    assert numbers == [1, 2, 3, 4, 5]
    for part in parts:
        rows = re.findall(r"^\| (?!part|what|---).*\|$", part, re.MULTILINE) or [part]
        for row in rows:
            assert "api/" in row or "lightning_adastate/" in row, row
            assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row), row


@functools.cache
def defined_in(room):
    """Names of all functions, classes and constants of a room."""
    place = ROOT / "lightning_adastate" / room
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    text = "\n".join(path.read_text() for path in files)
    return set(re.findall(r"^ *(?:def|class) (\w+)|^(\w+) = ", text, re.MULTILINE))


def is_defined(name):
    """Whether a dotted name of the reference stands for something in its room."""
    _, room, *rest = name.split(".")
    known = {one for pair in defined_in(room) for one in pair}
    return all(part in known for part in rest if not part.islower() or part == rest[-1])


def test_links_lead_somewhere():
    """To a file, and in the reference to an object; `mkdocs build --strict` looks at the other anchors."""
    for page, text in PAGES.items():
        for target in re.findall(
            r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        ):
            if target.startswith(("http", "#")):
                continue
            path, _, anchor = target.partition("#")
            assert ((DOCS / page).parent / path).exists(), (page, target)
            if anchor.startswith("lightning_adastate."):
                assert is_defined(anchor), (page, anchor)


@functools.cache
def sentences():
    """Every text in the package, `\0` where a value is put in."""
    texts = []
    for path in (ROOT / "lightning_adastate").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                texts.append("".join(part if isinstance(part, str) else "\0" for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def holds(text, parts):
    """Whether a text has all the parts, in order."""
    place = 0
    for part in parts:
        place = text.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


def said(quoted):
    """Whether one text of the package has all fixed parts of a quoted message, in order."""
    parts = [part.strip(" '") for part in quoted.split("...")]
    return any(holds(text, [part for part in parts if part]) for text in sentences())


QUOTED = re.findall(r"```text\n(.*?)\n```", PAGES.get("troubleshooting.md", ""), re.DOTALL)


def test_the_package_says_what_troubleshooting_quotes():
    assert len(QUOTED) > 25
    assert [quoted for quoted in QUOTED if not said(quoted)] == []


def test_a_sentence_that_nobody_says_is_noticed():
    assert not said("weights ... do not suit ...")
    assert not said("do not fit ... weights")


def test_every_public_name_has_its_place_in_the_reference():
    """By its room, or by itself: what `from lightning_adastate import X` gives."""
    asked = set(re.findall(r"^::: (\S+)", "\n".join(PAGES.values()), re.MULTILINE))
    stub = ast.parse((ROOT / "lightning_adastate" / "__init__.pyi").read_text())
    names = [
        (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert len(names) > 80
    for room, name in names:
        places = (room, room.partition(".")[0], f"{room}.{name}")
        assert any(f"lightning_adastate.{place}" in asked for place in places), f"{room}.{name}"


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    (version,) = re.findall(
        r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert f"\nversion: {version}\n" in citation
