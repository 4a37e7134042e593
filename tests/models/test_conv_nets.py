"""Hold blocks on convolutional networks against plain hooks, with statistics of batches that are kept and updated."""

import copy

import pytest
import torch
from torch import nn

from loupe import Model
from tests import tiny


class Residual(nn.Module):
    """A small residual network; its activation changes its argument in place."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.pool, self.head = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x):
        x = self.act(self.stem_norm(self.stem(x)))
        x = self.act(self.norm(self.conv(x)) + x)
        return self.head(self.pool(x).flatten(1))


def residual(training=False):
    torch.manual_seed(0)
    return Residual().train(training)


def statistics(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


@pytest.fixture
def images():
    return torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 2 + 1


def test_feature_maps_are_read_and_a_channel_is_written_as_by_hooks(images):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 2))
    model = Model(module)

    def change(output):
        output[:, 1] = 0

    with tiny.hooked(module, {"0": change}):
        seen, want = tiny.outputs_of(module, ["1", "2"], images)
    with model.trace(images):
        model[0].output[:, 1] = 0
        pooled, features, out = model[2].output.save(), model[1].output.save(), model.output.save()
    torch.testing.assert_close(features.value, seen["1"])
    torch.testing.assert_close(pooled.value, seen["2"])
    torch.testing.assert_close(out.value, want)


def test_a_value_above_an_activation_that_works_in_place_is_the_one_above(images):
    module = residual()
    model, before = Model(module), []
    with tiny.hooked(module, {"stem_norm": lambda output: before.append(output.clone())}):
        module(images)
    with model.trace(images):
        normed = model.stem_norm.output.clone().save()
        model.head.output.save()
    torch.testing.assert_close(normed.value, before[0])
    assert float(normed.min()) < 0


@pytest.mark.parametrize("training", [False, True])
def test_a_run_updates_the_statistics_of_batches_as_one_plain_call_does(images, training):
    module, twin = residual(training), residual(training)
    before = statistics(module)
    with torch.no_grad():
        want = twin(images)
    model = Model(module)
    with model.trace(images):
        assert model.norm.output.shape == (3, 4, 6, 6)
        out = model.output.save()
    torch.testing.assert_close(out.value, want)
    torch.testing.assert_close(statistics(module), statistics(twin))
    assert (int(module.norm.num_batches_tracked) - int(before["norm.num_batches_tracked"])) == int(training)


@pytest.mark.parametrize("training", [False, True])
def test_a_second_pass_for_a_peek_updates_the_statistics_no_second_time(images, training):
    module, twin = residual(training), residual(training)
    seen, want = tiny.outputs_of(twin, ["stem", "norm"], images)
    model = Model(module)
    with model.trace(images):
        later = float(model.norm.output.sum())
        earlier = float(model.stem.output.sum())
        out = model.output.save()
    assert later == pytest.approx(float(seen["norm"].sum()), rel=1e-4)
    assert earlier == pytest.approx(float(seen["stem"].sum()), rel=1e-4)
    torch.testing.assert_close(out.value, want)
    torch.testing.assert_close(statistics(module), statistics(twin))


@pytest.mark.parametrize("training", [False, True])
def test_invokes_are_one_batch_of_which_each_sees_its_rows(images, training):
    module, twin = residual(training), residual(training)

    def change(output):
        output[:1, 2] = 7

    with tiny.hooked(twin, {"conv": change}):
        seen, want = tiny.outputs_of(twin, ["norm"], images)
    model = Model(module)
    with model.trace() as tracer:
        with tracer.invoke(images[:1]):
            model.conv.output[:, 2] = 7
            first = model.output.save()
        with tracer.invoke(images[1:]):
            second, normed = model.output.save(), model.norm.output.clone().save()
    torch.testing.assert_close(first.value, want[:1])
    torch.testing.assert_close(second.value, want[1:])
    torch.testing.assert_close(normed.value, seen["norm"][1:])
    torch.testing.assert_close(statistics(module), statistics(twin))


def test_gradients_of_feature_maps_are_those_of_autograd_by_hand(images):
    module = residual()
    twin, kept = copy.deepcopy(module), []

    def keep(_module, _args, output):
        output.retain_grad()
        kept.append(output)

    twin.conv.register_forward_hook(keep)
    twin(images)[:, 1].sum().backward()
    model = Model(module)
    with model.trace(images):
        features = model.conv.output
        with model.output[:, 1].sum().backward():
            gradient = features.grad.save()
    torch.testing.assert_close(gradient.value, kept[0].grad)
    assert all(parameter.grad is None for parameter in module.parameters())
