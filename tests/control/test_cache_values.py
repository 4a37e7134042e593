"""Say what the values of a cache are: moved, cast, detached, of any type, pickled, of a session, of one module."""

import collections
import copy
import dataclasses
import io
import pickle

import torch
from torch import nn

from loupe import LanguageModel, Model
from tests import tiny
from tests.control.by_hand import IDS, all_outputs, gpt2, same, tensors

H1 = "transformer.h.1"


def test_values_are_moved_and_cast_where_asked_and_integers_are_not_cast():
    model = gpt2()
    with model.trace(IDS) as tracer:
        cache = tracer.cache(dtype=torch.bfloat16, device="cpu", include_inputs=True)
    hf = tiny.hf_model("gpt2")
    for path, calls in all_outputs(hf, lambda: hf(IDS)).items():
        if path:
            assert same(cache[path].output, [each.to(torch.bfloat16) for each in tensors(calls[0])])
    assert torch.equal(cache["transformer.wte"].input, IDS)


def test_half_precision_comes_out_as_asked():
    half = copy.deepcopy(tiny.hf_model("gpt2")).to(torch.bfloat16)
    model = LanguageModel(half)
    with model.trace(IDS) as tracer:
        plain, full = tracer.cache(H1), tracer.cache(H1, dtype=torch.float32)
    want, _ = tiny.outputs_of(half, [H1], IDS)
    assert torch.equal(plain[H1].output, want[H1])
    assert torch.equal(full[H1].output, want[H1].float())


def test_values_leave_the_autograd_graph_unless_they_are_to_stay():
    net, x = tiny.net(), torch.randn(2, 4, requires_grad=True)
    model = Model(net)
    with model.trace(x) as tracer:
        apart, inside = tracer.cache("a"), tracer.cache(["a", "b"], detach=False)
    assert not apart["a"].output.requires_grad
    inside["b"].output.sum().backward()
    found, x.grad = x.grad, None
    net(x)["logits"].sum().backward()
    torch.testing.assert_close(found, x.grad)
    net.zero_grad()
    with model.trace(torch.ones(2, 4)) as tracer:
        hidden = model.a.output
        model.output["logits"].sum().backward()
        gradient, cache = hidden.grad.save(), tracer.cache()
    assert not cache["b"].output.requires_grad
    assert gradient.shape == (2, 8)
    assert net.a.weight.grad is None


Pair = collections.namedtuple("Pair", "first second")


@dataclasses.dataclass
class Note:
    states: torch.Tensor
    number: int = 3


class Part(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FORMS = {
    "none": lambda x: None,
    "number": lambda x: 3,
    "text": lambda x: "a",
    "named tuple": lambda x: Pair(x + 1, 2),
    "dataclass": lambda x: Note(x + 1),
    "ordered": lambda x: collections.OrderedDict([(0, x + 2)]),
    "default": lambda x: collections.defaultdict(list, {"key": [x + 1]}),
    "nested": lambda x: [x, (x, {"inner": {"most": x}})],
    "set": lambda x: {1, 2},
    "flags": lambda x: x > 0,
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: (x > 0).float().to_sparse(),
    "object": lambda x: object,
}


def test_modules_may_return_anything():
    class Zoo(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(Part(function) for function in FORMS.values())

        def forward(self, x):
            return [part(x) for part in self.parts][-1]

    net, x = Zoo(), torch.randn(2, 4)
    with Model(net).trace(x) as tracer:
        cache = tracer.cache()
    for place, function in enumerate(FORMS.values()):
        found, want = cache[f"parts.{place}"].output, function(x)
        assert type(found) is type(want)
        one, other = tensors(found), tensors(want)
        assert [each.to_dense().tolist() for each in one] == [each.to_dense().tolist() for each in other]
        if not one and not isinstance(want, Note):
            assert found == want
    assert cache["parts.4"].output.number == 3
    assert torch.equal(cache["parts.4"].output.states, x + 1)


def test_a_cache_is_pickled_stored_and_copied_whole():
    model = LanguageModel(tiny.hf_model("gpt2"))
    with model.trace(IDS) as tracer:
        cache = tracer.cache(["transformer.h.*", model])
    stored = io.BytesIO()
    torch.save(cache, stored)
    stored.seek(0)
    for found in (
        pickle.loads(pickle.dumps(cache)),
        torch.load(stored, weights_only=False),
        copy.deepcopy(cache),
    ):
        assert list(found) == list(cache)
        assert repr(found) == repr(cache)
        assert torch.equal(found[H1].output[0], cache[H1].output[0])  # the hidden states, here too
        assert torch.equal(found[""].output, cache[""].output)
        assert torch.equal(found.transformer.h[1].output, cache[H1].output)
        assert "transformer.h.9" not in found


def test_a_cache_in_a_session_is_filled_with_its_block_and_read_between_the_blocks():
    model = gpt2()
    with model.session():
        with model.trace(IDS) as tracer:
            first = tracer.cache(H1)
        shape = first[H1].output.shape
        with model.trace(IDS) as tracer:
            model.transformer.h[0].output[:] = 0
            second = tracer.cache(H1)
    hf = tiny.hf_model("gpt2")
    assert shape == (1, 4, 32)
    assert same(first[H1].output, all_outputs(hf, lambda: hf(IDS))[H1])
    with tiny.hooked(hf, {"transformer.h.0": lambda output: output * 0}):
        assert same(second[H1].output, all_outputs(hf, lambda: hf(IDS))[H1])


def test_a_block_on_one_module_collects_that_module_and_what_is_inside():
    hf, model, x = tiny.hf_model("gpt2"), gpt2(), torch.randn(1, 4, 32)
    with model.transformer.h[1].trace(x) as tracer:
        cache = tracer.cache()
    with torch.no_grad():
        assert torch.equal(cache[H1].output, hf.transformer.h[1](x))
    assert all(path.startswith(H1) for path in cache)
    assert f"{H1}.mlp.c_fc" in cache


def test_under_inference_mode_a_cache_is_collected():
    hf, model = tiny.hf_model("gpt2"), gpt2()
    with torch.inference_mode(), model.trace(IDS) as tracer:
        cache = tracer.cache(H1)
    assert torch.equal(cache[H1].output, all_outputs(hf, lambda: hf(IDS))[H1][0])
