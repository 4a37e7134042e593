"""Hold what a notebook shows of a saved tensor: its shape, statistics, a picture of its values; whatever is in it."""

import base64
import html
import io
import re
import warnings

import matplotlib.image
import numpy as np
import pytest
import torch

from loupe import Model
from loupe.trace.display import tensor_html
from tests import tiny


def shown(value):
    """The words above the folded values."""
    return html.unescape(re.sub(r"<[^>]*>", " ", tensor_html(value).partition("<details>")[0]))


def pixels(value):
    """The colours `[rows, columns, 3]` of the picture, from 0 to 1."""
    encoded = re.search(r'src="data:image/png;base64,([^"]*)"', tensor_html(value))[1]
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(encoded)), format="png")


def test_a_saved_tensor_shows_what_it_is_and_prints_as_torch_prints_it():
    model, x = Model(tiny.stack()), torch.ones(2, 8)
    with model.trace(x):
        hidden = model.layers[0].output.save()
    plain = tiny.stack().layers[0](x).detach()
    page = hidden._repr_html_()
    assert page == tensor_html(plain)
    assert "[2, 8] float32 cpu" in page
    assert html.escape(repr(plain)) in page
    assert repr(hidden) == repr(plain)


def test_statistics_are_those_of_all_values():
    torch.manual_seed(0)
    value = torch.randn(3, 50, 40) * 5 + 2
    numbers = value.double().numpy()
    expected = (
        f"mean {numbers.mean():.4g} · std {numbers.std():.4g} · min {numbers.min():.4g} · max {numbers.max():.4g}"
    )
    assert expected in shown(value)
    halves = value.bfloat16()
    assert f"mean {halves.double().numpy().mean():.4g}" in shown(halves)


def test_what_is_no_number_is_counted_and_left_out():
    nan, inf = float("nan"), float("inf")
    words = shown(torch.tensor([1.0, 3.0, nan, nan, nan, inf, -inf]))
    assert "mean 2 · std 1 · min 1 · max 3 · 3 nan · 2 infinite" in words


def test_truths_are_counted_and_complex_values_go_by_their_magnitude():
    assert "3 of 4 true" in shown(torch.tensor([[True, True], [False, True]]))
    assert "of magnitudes: · mean 5 · std 0 · min 5 · max 5" in shown(torch.tensor([3 + 4j, -5 + 0j, 0 - 5j]))


def test_a_single_value_is_shown_itself():
    assert shown(torch.tensor(2.5)).split()[-1] == "2.5"


def test_the_picture_is_white_at_zero_red_above_and_blue_below():
    colours = pixels(torch.tensor([[0.0, 2.0, -2.0], [1.0, float("nan"), float("inf")]]))
    (zero, high, low), (half, nothing, endless) = colours[..., :3]
    assert zero.min() > 0.95
    assert high[0] > high[2] + 0.4
    assert low[2] > low[0] + 0.4
    assert np.allclose(half, (zero + high) / 2, atol=0.02)
    assert np.ptp(nothing) < 0.02
    assert 0.3 < nothing[0] < 0.7
    assert np.allclose(endless, high)


def test_the_picture_is_of_the_last_two_dimensions_row_by_row():
    value = torch.zeros(2, 3, 4, 5)
    value[0, 0, 1, 3] = 1.0
    value[1] = -1.0
    colours = pixels(value)
    assert colours.shape[:2] == (4, 5)
    red = [tuple(place) for place in np.argwhere(colours[..., 0] > colours[..., 2] + 0.4)]
    assert red == [(1, 3)]
    assert "at [0, 0]" in shown(value)
    assert pixels(torch.arange(7)).shape[:2] == (1, 7)


def test_a_few_outliers_do_not_make_the_rest_pale():
    value = torch.ones(20, 50)
    value[3, 7] = 1000.0
    assert pixels(value)[0, 0, 2] < 0.3


def test_a_large_tensor_is_sampled_and_says_so():
    value = torch.arange(3000, dtype=torch.float32).expand(2000, 3000)
    colours = pixels(value)
    assert colours.shape[0] <= 64
    assert colours.shape[1] <= 192
    words = shown(value)
    assert "of 6,000,000 values" in words
    assert "every 32nd row" in words
    assert "every 16th column" in words
    endless = torch.ones(1, 1).expand(10**6, 10**6)
    assert "of 1,000,000,000,000 values" in shown(endless)


ODD = {
    "empty": lambda: torch.zeros(0, 3),
    "empty inside": lambda: torch.zeros(3, 0, 2),
    "all nan": lambda: torch.full((2, 2), float("nan")),
    "all infinite": lambda: torch.full((3,), float("inf")),
    "very large": lambda: torch.full((2, 2), 1e308, dtype=torch.float64),
    "very small": lambda: torch.full((2, 2), 5e-324, dtype=torch.float64),
    "meta": lambda: torch.zeros(3, 4, device="meta"),
    "float8": lambda: torch.ones(2, 2).to(torch.float8_e4m3fn),
    "uint16": lambda: torch.arange(5).to(torch.uint16),
    "half complex": lambda: torch.ones(3).to(torch.complex32),
    "conjugate": lambda: torch.ones(2, 2, dtype=torch.complex64).conj(),
    "bits": lambda: torch.empty(3, dtype=torch.bits8),
    "four bits": lambda: torch.empty(3, dtype=torch.uint4),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "with gradient": lambda: torch.ones(2, requires_grad=True) * 2,
    "five dimensions": lambda: torch.ones(1, 2, 1, 2, 3),
    "transposed": lambda: torch.ones(4, 6)[::2, ::3].t(),
    "one column": lambda: torch.ones(5000, 1),
}


@pytest.mark.parametrize("kind", ODD)
def test_no_tensor_is_too_odd_to_be_shown(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = ODD[kind]()
    words = shown(value)
    assert f"[{', '.join(map(str, value.shape))}] {str(value.dtype).removeprefix('torch.')} {value.device}" in words


def test_a_nested_tensor_is_shown_without_a_shape():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    assert "nested float32 cpu" in shown(value)
