import pytest
import torch

from lightning_adastate.text import VocabularyEncoder
from lightning_adastate.worlds import PanWorld


def test_a_word_has_the_same_vector_in_every_prompt_and_place():
    text = VocabularyEncoder(16)(["drifting slowly west", "West!"])
    assert text.shape == (2, 8, 16)
    assert torch.equal(text[0, 2], text[1, 0])
    assert not torch.equal(text[0, 1], text[0, 2])


def test_unused_places_are_zero_and_used_ones_have_unit_deviation():
    text = VocabularyEncoder(16)(["go east"])
    assert text[0, 2:].abs().max() == 0.0
    assert torch.equal(text[0, :2].abs(), torch.ones(2, 16))


def test_vectors_are_the_same_in_every_process_and_on_every_machine():
    # Written down once: a change would make every trained checkpoint deaf.
    expected = [-1, 1, 1, 1, -1, 1, -1, -1, -1, -1, 1, 1]
    assert VocabularyEncoder(12)(["west"])[0, 0].int().tolist() == expected


def test_it_has_nothing_to_train_or_to_broadcast():
    encoder = VocabularyEncoder()
    assert not list(encoder.parameters())
    assert not list(encoder.buffers())


def test_all_prompts_of_the_world_differ_as_sets_of_words():
    world = PanWorld()
    text = VocabularyEncoder()([world.prompt(v) for v in world.velocities]).sum(1)
    assert len(torch.unique(text, dim=0)) == len(world.velocities)


@pytest.mark.parametrize("prompt", ["", "  \n", "..."])
def test_an_empty_prompt_is_refused(prompt):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        VocabularyEncoder()(["fine", prompt])


def test_too_many_words_are_refused():
    with pytest.raises(ValueError, match="has 4 words, the most is 3"):
        VocabularyEncoder(4, max_tokens=3)(["one two three four"])


def test_a_bare_string_is_refused():
    with pytest.raises(TypeError, match="list of prompts"):
        VocabularyEncoder()("drifting west")
