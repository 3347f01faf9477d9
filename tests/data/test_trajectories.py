"""Stored trajectories: our own files, and the LMDB layout of the public tools."""

import sys

import lmdb
import numpy as np
import pytest
import torch

from lightning_adastate.data import TrajectoryData
from lightning_adastate.data.trajectory_shards import read_header, shard_path, write_shard

SIGMAS = (1.0, 0.75, 0.5)
SHAPE = (4, 2, 3, 2, 2)  # K states and the end, F, C, H, W


def latents(row, entries=4):
    """Every number of entry k of trajectory i is 10 i + k."""
    value = 10.0 * row + torch.arange(float(entries))
    return value[:, None, None, None, None].expand(entries, *SHAPE[1:]).clone()


def write(folder, rows=7, per_file=3, context=False, **settings):
    for first in range(0, rows, per_file):
        here = range(first, min(first + per_file, rows))
        write_shard(
            shard_path(folder, first),
            torch.stack([latents(row) for row in here]).half(),
            SIGMAS,
            [f"clip {row}" for row in here],
            context_NFCHW=torch.stack([latents(row)[0] - 1 for row in here]) if context else None,
            settings={"seed": 0, **settings},
        )
    return folder


def write_lmdb(folder, rows=7, entries=4, first=0, shape=None):
    """What `create_lmdb_iterative.py` of the public tools leaves, by the description in our notes."""
    folder.mkdir(parents=True)
    environment = lmdb.open(str(folder), map_size=2**24)
    dims = [rows, entries, *SHAPE[1:]] if shape is None else shape
    with environment.begin(write=True) as transaction:
        transaction.put(b"latents_shape", " ".join(map(str, dims)).encode())
        transaction.put(b"prompts_shape", str(rows).encode())
        for row in range(rows):
            array = latents(first + row, entries).numpy().astype(np.float16)
            transaction.put(f"latents_{row}_data".encode(), array.tobytes())
            transaction.put(f"prompts_{row}_data".encode(), f"clip {first + row}".encode())
    environment.close()
    return folder


def make(folder, **options):
    data = TrajectoryData(str(folder), **{"batch_size": 2, "val_fraction": 0.2, **options})
    data.setup()
    return data


def seen(loader):
    """Row numbers, checking that states, prompts and shapes belong together."""
    rows = []
    for batch in loader:
        for states, prompt in zip(batch["latents"], batch["prompts"], strict=True):
            row = round(float(states[0, 0, 0, 0, 0])) // 10
            assert torch.equal(states, latents(row))
            assert prompt == f"clip {row}"
            rows.append(row)
    return rows


def test_our_files_are_read_back_as_they_were_written(tmp_path):
    data = make(write(tmp_path))
    train, val = seen(data.train_dataloader()), seen(data.val_dataloader())
    assert len(train) == 6
    assert set(train) | set(val) == set(range(7))
    assert not set(train) & set(val)
    batch = next(iter(data.train_dataloader()))
    assert batch["latents"].dtype == torch.float32
    assert batch["sigmas"].tolist() == [[1.0, 0.75, 0.5, 0.0]] * 2
    assert batch["context"] is None


def test_the_real_clip_comes_along_where_the_teacher_saw_it(tmp_path):
    batch = next(iter(make(write(tmp_path, context=True)).train_dataloader()))
    assert torch.equal(batch["context"], batch["latents"][:, 0] - 1)


def test_the_order_follows_seed_and_epoch(tmp_path):
    data = make(write(tmp_path), val_fraction=0.0)
    loader = data.train_dataloader()
    first, second = seen(loader), seen(loader)
    assert first != second
    assert seen(make(tmp_path, val_fraction=0.0).train_dataloader()) == first
    assert seen(make(tmp_path, val_fraction=0.0, seed=5).train_dataloader()) != first


def test_another_process_reads_the_same(tmp_path):
    write_lmdb(tmp_path / "lmdb")
    options = {"timesteps": [1000, 750, 500], "val_fraction": 0.0}
    own = seen(make(tmp_path / "lmdb", **options).train_dataloader())
    assert seen(make(tmp_path / "lmdb", **options, num_workers=1).train_dataloader()) == own


def test_a_header_says_how_the_file_was_made(tmp_path):
    header = read_header(shard_path(write(tmp_path, guidance=6.0), 3))
    assert header.prompts == ("clip 3", "clip 4", "clip 5")
    assert header.settings == {"seed": 0, "guidance": 6.0}
    assert header.sigmas == (*SIGMAS, 0.0)


# -- the public layout ----------------------------------------------------------------------------------


def test_an_lmdb_of_the_public_tools_is_read(tmp_path):
    data = make(write_lmdb(tmp_path / "ode"), timesteps=[1000, 750, 500])
    assert set(seen(data.train_dataloader())) | set(seen(data.val_dataloader())) == set(range(7))
    batch = next(iter(data.train_dataloader()))
    assert batch["context"] is None
    torch.testing.assert_close(
        batch["sigmas"], torch.tensor([[1.0, 0.75, 0.5, 0.0]]).expand(2, -1)
    )


def test_one_more_entry_is_the_real_clip(tmp_path):
    folder = write_lmdb(tmp_path / "causal", entries=5)
    batch = next(iter(make(folder, timesteps=[1000, 750, 500]).train_dataloader()))
    assert batch["latents"].shape == (2, *SHAPE)
    assert torch.equal(batch["context"], batch["latents"][:, -1] + 1)


def test_shards_are_one_list_in_the_order_of_their_names(tmp_path):
    write_lmdb(tmp_path / "shard_001", rows=2, first=3)
    write_lmdb(tmp_path / "shard_000", rows=3)
    data = make(tmp_path, timesteps=[1000, 750, 500], val_fraction=0.0, batch_size=1)
    assert [data.train_rows.source[i].prompt for i in range(5)] == [f"clip {i}" for i in range(5)]
    assert sorted(seen(data.train_dataloader())) == list(range(5))


def test_a_lost_row_shape_can_be_told(tmp_path):
    folder = write_lmdb(tmp_path / "lost", shape=[7])
    with pytest.raises(ValueError, match=r"has lost the shape of its rows.*`row_shape: \[K, F, C"):
        make(folder, timesteps=[1000, 750, 500])
    data = make(folder, timesteps=[1000, 750, 500], row_shape=list(SHAPE))
    assert len(seen(data.train_dataloader())) == 6
    wrong = make(folder, timesteps=[1000, 750, 500], row_shape=[4, 3, 3, 2, 2])
    with pytest.raises(ValueError, match=r"row \d of '.*' has 192 bytes, .* needs 288"):
        next(iter(wrong.train_dataloader()))


# -- mistakes ---------------------------------------------------------------------------------------------


def test_an_lmdb_needs_its_timesteps_and_only_an_lmdb(tmp_path):
    write_lmdb(tmp_path / "lmdb")
    with pytest.raises(ValueError, match="give `timesteps`"):
        make(tmp_path / "lmdb")
    with pytest.raises(ValueError, match="rows of '.*' have 4 entries: .* got 5 `timesteps`"):
        make(tmp_path / "lmdb", timesteps=[1000, 900, 800, 700, 600])
    (tmp_path / "ours").mkdir()
    with pytest.raises(ValueError, match="are for an LMDB"):
        make(write(tmp_path / "ours"), timesteps=[1000])


def test_clean_latents_are_no_trajectories(tmp_path):
    folder = write_lmdb(tmp_path / "clean", shape=[7, *SHAPE[1:]])
    with pytest.raises(ValueError, match="clean latents, no trajectories"):
        make(folder, timesteps=[1000, 750, 500])


def test_a_strange_lmdb_is_refused(tmp_path):
    lmdb.open(str(tmp_path / "other")).close()
    with pytest.raises(ValueError, match="has no key 'latents_shape'"):
        make(tmp_path / "other", timesteps=[1000])


def test_without_lmdb_the_extra_is_named(tmp_path, monkeypatch):
    write_lmdb(tmp_path / "lmdb")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-adastate\[lmdb\]'"):
        make(tmp_path / "lmdb", timesteps=[1000])


def test_files_of_different_settings_do_not_mix(tmp_path):
    write(tmp_path, rows=3)
    extra = shard_path(tmp_path, 3)
    write_shard(extra, latents(3)[None], SIGMAS, ["clip 3"], settings={"seed": 1})
    with pytest.raises(ValueError, match="were made with different settings"):
        make(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be 1 or more, got 0"),
        ({"val_fraction": 1.0}, r"`val_fraction` must be in \[0, 1\), got 1.0"),
        ({"num_workers": -1}, "must be 0 or more, got -1 and 0"),
        ({"timesteps": [500, 750]}, r"`timesteps` must fall .* got \[500, 750\]"),
        ({"timesteps": [1000, 0]}, r"`timesteps` must fall"),
        (
            {"batch_size": 9},
            "has 6 trajectories for training, one batch on each of 1 ranks needs 9",
        ),
    ],
)
def test_bad_numbers_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(write(tmp_path), **options).train_dataloader()


def test_trajectories_that_are_no_numbers_are_not_written(tmp_path):
    broken = latents(3)[None]
    broken[0, 1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="are not finite; look at the teacher's weights"):
        write_shard(shard_path(tmp_path, 3), broken, SIGMAS, ["clip 3"], settings={"seed": 1})
    assert list(tmp_path.iterdir()) == []


def test_missing_and_broken_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="make it with the verb `trajectories`"):
        make(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no trajectories"):
        make(tmp_path)
    shard_path(tmp_path, 0).write_bytes(b"half a file")
    with pytest.raises(ValueError, match="cannot read trajectories from"):
        make(tmp_path)
