"""Hold what a heat map shows: its labels, its colours, its file; and what it refuses."""

import numpy as np
import pytest
import torch

from loupe.errors import InputError
from loupe.plots.heatmap import heatmap

TOKENS = ["The", " Tower", " is"]


def test_every_row_and_column_has_its_name_and_the_colour_bar_its_quantity():
    figure = heatmap(torch.ones(2, 3), columns=TOKENS, title="patching", quantity="logit difference")
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["The", "·Tower", "·is"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1"]
    assert axes.get_title() == "patching"
    assert bar.get_ylabel() == "logit difference"


def test_zero_is_in_the_middle_of_the_colours():
    figure = heatmap([[3.0, -1.0, 0.5]], columns=TOKENS, title="t", quantity="q")
    image = figure.axes[0].images[0]
    assert image.get_clim() == (-3.0, 3.0)
    assert np.allclose(image.get_array(), [[3.0, -1.0, 0.5]])


def test_the_picture_is_written(tmp_path):
    heatmap(torch.zeros(1, 3), columns=TOKENS, title="t", quantity="q", file=tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("values", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 4)])
def test_names_that_do_not_fit_are_refused(values):
    with pytest.raises(InputError, match=r"heat map|row names"):
        heatmap(values, columns=TOKENS, title="t", quantity="q")
