import pytest

from lightning_adastate.data import read_prompts


def test_what_is_no_file_is_the_prompt():
    assert read_prompts(" drifting slowly west ") == ["drifting slowly west"]
    assert read_prompts("a very long prompt " * 400)[0].startswith("a very long prompt")


def test_a_file_gives_one_prompt_per_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufefffirst caf\u00e9\n\n  second  \r\nthird", encoding="utf-8")
    assert read_prompts(str(path)) == ["first caf\u00e9", "second", "third"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b" \n\n", "is empty"), (b"\xff\xfe\xfa", "no readable UTF-8")],
)
def test_a_bad_file_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_prompts(str(path))
    assert "bad.txt" in str(error.value)


def test_a_missing_file_and_an_empty_prompt_are_refused():
    with pytest.raises(ValueError, match=r"'nothere.txt' does not exist"):
        read_prompts("nothere.txt")
    with pytest.raises(ValueError, match="the prompt is empty"):
        read_prompts("  ")


def test_a_folder_is_no_prompt(tmp_path):
    for folder in (str(tmp_path), "."):
        with pytest.raises(ValueError, match=f"the prompt {folder!r} is a folder; give text"):
            read_prompts(folder)
