import pytest
import torch
from matplotlib.image import imread

from lightning_adastate.media.pictures import contact_sheet, label_picture, side_by_side


def flat(frames, value):
    return torch.full((frames, 3, 8, 16), value)


def test_videos_stand_in_order_under_their_labels():
    shown = side_by_side([flat(3, 0.2), flat(2, 0.6)], ["none", "static"], scale=10, gap=6)
    assert shown.dtype == torch.uint8
    assert shown.shape == (3, 3, 28 + 80, 160 + 6 + 160)
    assert (shown[:, :, 28:, :160] == 51).all()
    assert (shown[:, :, 28:, 160:166] == 255).all()
    assert (shown[:, :, 28:, 166:] == 153).all(), "a shorter video stays at its last frame"
    for head in (shown[0, :, :28, :160], shown[0, :, :28, 166:]):
        assert head.min() < 100, "there is a label"


@pytest.mark.parametrize("width", [64, 160, 400])
@pytest.mark.parametrize("label", ["none", "adaptive, horizon-weighted", "x" * 60])
def test_a_label_fits_its_width(label, width):
    picture = label_picture(label, width)
    assert picture.shape == (3, 28, width)
    assert picture.min() < 200
    assert (picture[:, :, 0] > 240).all()
    assert (picture[:, :, -1] > 240).all()


def test_tiny_videos_are_made_watchable():
    assert side_by_side([flat(1, 0.5)], ["one"]).shape[2] >= 192


def test_a_contact_sheet_shows_the_first_and_last_frame(tmp_path):
    time = torch.linspace(0, 1, 30)[:, None, None, None].expand(30, 3, 8, 16)
    contact_sheet(tmp_path / "new" / "a.png", [time, 1 - time], ["up", "down"], num_columns=5)
    picture = torch.from_numpy(imread(tmp_path / "new" / "a.png").copy())
    height, width = picture.shape[:2]
    assert width > 700
    # the middle of each row's first and last cell: black to white, and the other way round
    rows = [round(height * 0.38), round(height * 0.82)]
    edges = [round(width * 0.2), round(width * 0.93)]
    values = [[round(float(picture[y, x, 0])) for x in edges] for y in rows]
    assert values == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("videos", "labels", "message"),
    [
        ([], [], "one label per video, got 0 for 0"),
        ([flat(1, 0.0)], ["a", "b"], "one label per video, got 2 for 1"),
        ([flat(1, 0.0), torch.zeros(1, 3, 8, 8)], ["a", "b"], "of one size"),
        ([flat(0, 0.0)], ["a"], "at least one frame"),
    ],
)
def test_what_cannot_be_shown_is_refused(videos, labels, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        side_by_side(videos, labels)
    with pytest.raises(ValueError, match=message):
        contact_sheet(tmp_path / "a.png", videos, labels)
