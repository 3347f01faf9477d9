"""The order of clips goes on where it stopped: in an epoch, at its end and into the next, with workers or without."""

import pytest
from torch.utils.data import Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_adastate.data import ClipSampler
from lightning_adastate.data.sampler import EachOnce

BATCHES = 4
FIRST = [(9, 57546282038424761), (14, 17969391829861794)]
SECOND = [(15, 42595269907791064), (6, 37470210963991854)]


class Echo(Dataset):
    def __len__(self):
        return 17

    def __getitem__(self, draw):
        return draw


def loader(num_workers=0, rank=0):
    rows = Echo()
    sampler = ClipSampler(rows, num_replicas=2, rank=rank, seed=3)
    return StatefulDataLoader(
        rows, batch_size=2, sampler=sampler, num_workers=num_workers, collate_fn=list
    )


def epochs(source, count):
    return [[draw for batch in source for draw in batch] for _ in range(count)]


@pytest.mark.filterwarnings("ignore:.*set_vital")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("done", [1, BATCHES - 1, BATCHES])
@pytest.mark.parametrize("after", [0, 1], ids=["first epoch", "second epoch"])
def test_a_saved_place_goes_on_in_this_epoch_and_the_next(num_workers, done, after):
    whole = epochs(loader(num_workers), 4)
    first = loader(num_workers)
    seen = epochs(first, after)
    batches = iter(first)
    seen.append([draw for _ in range(done) for draw in next(batches)])
    state = first.state_dict()
    second = loader(num_workers)
    second.load_state_dict(state)
    seen[-1] += [draw for batch in second for draw in batch]
    second.sampler.set_epoch(after + 5)  # Lightning tells an epoch once the loader has begun
    seen += epochs(second, 3 - after)
    assert seen == whole


def test_the_numbers_are_those_of_the_first_release():
    sampler = ClipSampler(Echo(), num_replicas=2, rank=1, seed=3)
    assert [tuple(draw) for draw in sampler][:2] == FIRST
    assert [tuple(draw) for draw in sampler][:2] == SECOND


@pytest.mark.parametrize("rows", [0, 1, 5, 6])
def test_each_row_is_one_processs_alone(rows):
    shared = [EachOnce(range(rows), num_replicas=3, rank=rank, shuffle=False) for rank in range(3)]
    assert sorted(row for each in shared for row in each) == list(range(rows))
    assert [len(each) for each in shared] == [len(list(each)) for each in shared]
