"""Who learns on which batch, and on which prompts."""

import pytest
from training_toy import ClipData, self_forcing, trainer

from lightning_adastate.training.turns import Turns


def order(batches, **options):
    """Letters of those who learn, batch by batch."""
    turns = Turns(**{"critic_prompts": "same", "accumulate": 1, "critic_warmup": 0, **options})
    letters = {(True, False): "G", (False, True): "c", (True, True): "B"}
    return "".join(letters[turns.of(batch)] for batch in range(batches))


def test_the_critic_learns_on_the_generators_batch_too_or_on_the_next_one():
    assert order(9, generator_interval=3) == "BccBccBcc"
    assert order(9, generator_interval=3, critic_prompts="fresh") == "GcccGcccG"
    assert order(8, generator_interval=1, critic_prompts="fresh") == "GcGcGcGc"


def test_warm_up_and_whole_steps_of_several_batches():
    options = {"generator_interval": 2, "accumulate": 2, "critic_warmup": 1}
    assert order(10, **options) == "ccBBccBBcc"
    assert order(14, **options, critic_prompts="fresh") == "ccGGccccGGcccc"


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_busiest_batches_end_a_step_of_each(accumulate):
    same = Turns(2, 1, accumulate, "same")
    assert same.busiest_batches(2) == [2 * accumulate - 1, 4 * accumulate - 1]
    fresh = Turns(2, 1, accumulate, "fresh")
    ends = fresh.busiest_batches(2)
    assert [fresh.of(end) for end in ends] == [(True, False), (False, True)] * 2
    assert ends == [accumulate * end - 1 for end in (2, 3, 5, 6)]


@pytest.mark.parametrize("critic_prompts", ["same", "fresh"])
def test_generator_and_critic_score_the_prompts_they_are_said_to(tmp_path, critic_prompts):
    """Public Self-Forcing takes a batch for the generator's step and another for the critic's."""
    model = self_forcing(generator_interval=2, critic_prompts=critic_prompts, num_frames=2)
    seen, rollout = [], model.rollout

    def spy(text_BSD, clip, phase, **options):
        seen.append((phase, model.batches_seen))
        return rollout(text_BSD, clip, phase, **options)

    model.rollout = spy
    trainer(tmp_path).fit(model, ClipData(8, val_count=0))
    fresh = [("generator", 0), ("critic", 1), ("critic", 2), ("generator", 3)]
    same = [("generator", 0), ("critic", 0), ("critic", 1), ("generator", 2), ("critic", 2)]
    expected = fresh if critic_prompts == "fresh" else [*same, ("critic", 3)]
    assert seen == expected
    assert model.batches_seen == 4


def test_a_shared_rollout_has_the_generators_prompts():
    with pytest.raises(ValueError, match="needs `critic_prompts` 'same', got 'fresh'"):
        self_forcing(critic_rollout="shared", critic_prompts="fresh")
