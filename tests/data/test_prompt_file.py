import pytest
from lightning.pytorch import Trainer
from training_toy import self_forcing

from lightning_adastate.data import PromptFileData


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"prompt {i}\n\n" for i in range(7)))
    return str(file)


def epochs(data, count=2):
    data.setup()
    loader = data.train_dataloader()
    return [[batch["prompts"] for batch in loader] for _ in range(count)]


def test_every_prompt_comes_once_per_epoch_in_another_order_without_frames(path):
    data = PromptFileData(path)
    first, second = epochs(data)
    assert sorted(first) == sorted(second) == [[f"prompt {i}"] for i in range(7)]
    assert first != second
    assert next(iter(data.train_dataloader()))["video"].shape == (1, 0, 3, 1, 1)
    assert epochs(PromptFileData(path)) == [first, second]


def test_prompts_set_aside_are_not_trained_on(path):
    data = PromptFileData(path, val_fraction=0.3, batch_size=2)
    data.setup()
    aside = [prompt for batch in data.val_dataloader() for prompt in batch["prompts"]]
    trained = [prompt for batch in data.train_dataloader() for prompt in batch["prompts"]]
    assert len(aside) == 2
    assert not set(aside) & set(trained)


def test_self_forcing_trains_on_prompts_alone(path, tmp_path):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(self_forcing(), datamodule=PromptFileData(path, batch_size=2))
    assert trainer.global_step == 2


def test_bad_files_and_sizes_are_one_sentence(path, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        PromptFileData(str(tmp_path / "none.txt")).setup()
    data = PromptFileData(path, batch_size=9)
    data.setup()
    with pytest.raises(ValueError, match="has 7 prompts for training, one batch .* needs 9"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="`batch_size`"):
        PromptFileData(path, batch_size=0)
