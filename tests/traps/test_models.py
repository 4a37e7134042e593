"""Modules of the user's, models without a tokenizer, devices, scans, caches, patterns and threads."""

import copy
import threading

import pytest
import torch
from torch import nn

from loupe import LanguageModel, Model
from loupe.errors import BlockError, InputError
from tests import tiny

X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Pair(nn.Module):
    """Two linear layers; modules can be attached to it without becoming part of its forward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.second(self.first(x))


def pair() -> Pair:
    torch.manual_seed(0)
    return Pair()


def test_an_attached_module_has_sites_without_a_flag():
    net = pair()
    model, coder = Model(net), nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 8))
    model.coder = coder
    with model.trace(X):
        model.first.output = model.coder(model.first.output)
        code = model.coder[0].output.save()
        logits = model.output.save()
    with torch.no_grad():
        assert torch.equal(code, coder[0](net.first(X)))
        assert torch.allclose(logits, net.second(coder(net.first(X))), atol=1e-6)


def test_a_module_cannot_be_attached_where_it_would_run_by_itself():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8))
    model = Model(net)
    with pytest.raises(BlockError, match="Sequential"):
        model.coder = nn.Linear(8, 8)
    assert len(net) == 2


def test_a_loaded_model_without_a_tokenizer_takes_ids_and_says_what_a_text_needs():
    hf = tiny.hf_model("gpt2")
    model = LanguageModel(hf)
    with model.trace([1, 2, 3]):
        logits = model.output.save()
    with torch.no_grad():
        assert torch.allclose(logits, hf(torch.tensor([[1, 2, 3]])).logits, atol=1e-6)
    with pytest.raises(InputError) as caught:
        with model.trace("w1 w2"):
            model.output.save()
    assert "tokenizer=" in caught.value.remedy
    assert "token ids" in caught.value.remedy


def on_meta() -> Model:
    """A model on a device on which every machine can put it, and which meets no tensor of another."""
    return Model(nn.Sequential(nn.Linear(4, 8, device="meta"), nn.Linear(8, 8, device="meta")))


INPUT = torch.ones(3, 4, device="meta")
MEETINGS = {
    "operator": lambda model, hidden: hidden + torch.ones(8),
    "list": lambda model, hidden: torch.cat([hidden, torch.ones(3, 2)], dim=1),
    "keyword": lambda model, hidden: torch.add(hidden, other=torch.ones(8)),
    "module": lambda model, hidden: model[1](torch.ones(3, 8)) + hidden,
}


@pytest.mark.parametrize("way", MEETINGS)
def test_a_tensor_made_in_a_block_is_brought_to_the_device_of_what_it_meets(way):
    model = on_meta()
    with pytest.raises(RuntimeError, match="device"):
        torch.cat([torch.ones(3, 8, device="meta"), torch.ones(3, 2)], dim=1)
    with model.trace(INPUT):
        found = MEETINGS[way](model, model[0].output).save()
    assert found.device.type == "meta"
    assert found.shape[0] == 3


def test_a_tensor_made_in_a_block_is_written_on_the_device_of_the_site():
    model = on_meta()
    with model.trace(INPUT):
        model[0].output = torch.ones(3, 8)
        found = model.output.save()
    assert found.device.type == "meta"


def test_a_scan_has_sizes_as_numbers_and_says_that_it_has_no_values():
    model = Model(tiny.net())
    with model.scan(X):
        hidden = model.a.output
        sizes = [row for row in range(hidden.shape[0]) if hidden.shape[1] > 4]
        wide = hidden.shape == (3, 8)
    assert sizes == [0, 1, 2]
    assert wide is True

    with pytest.raises(BlockError, match="no value"):
        with model.scan(X):
            if model.a.output.sum() > 0:
                pass


def test_a_cache_may_be_opened_at_any_line():
    model = Model(tiny.net())
    with model.trace(X) as tracer:
        hidden = model.a.output
        hidden *= 2
        cache = tracer.cache()
    with torch.no_grad():
        want = tiny.net().a(X) * 2
    assert torch.allclose(cache["a"].output, want, atol=1e-6)
    assert {"a", "b", "shared"} <= set(cache)


def test_the_attention_pattern_is_read_at_a_module_that_the_model_no_longer_calls():
    hf = tiny.hf_model("gpt2")
    model = LanguageModel(hf)
    with model.trace([1, 2, 3]):
        pattern = model.transformer.h[1].attn.attn_dropout.input.save()
    eager = copy.deepcopy(hf)  # the library leaves hooks on a model that has been asked for attentions
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        want = eager(torch.tensor([[1, 2, 3]]), output_attentions=True).attentions[1]
    assert torch.allclose(pattern, want, atol=1e-6)


def test_two_threads_trace_one_model_by_turns():
    model, net = Model(tiny.net()), tiny.net()
    gate = threading.Barrier(2)
    found: dict[int, list[torch.Tensor]] = {1: [], 2: []}
    failed: list[BaseException] = []

    def read(scale):
        try:
            gate.wait(timeout=10)
            for _ in range(10):
                with model.trace(X * scale):
                    model.a.output[:] *= scale
                    found[scale].append(model.b.output.save())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=read, args=(scale,)) for scale in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not failed
    for scale, values in found.items():
        with torch.no_grad():
            hidden = torch.relu(net.a(X * scale) * scale)
            for _ in range(3):
                hidden = net.shared(hidden)
            want = net.b(hidden)
        assert len(values) == 10
        assert all(torch.allclose(value, want, atol=1e-6) for value in values)
