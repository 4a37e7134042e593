"""Hold modules of the user's that train through blocks against the same training with plain hooks."""

import copy

import pytest
import torch
from torch.nn.utils.parametrizations import orthogonal

import loupe
from loupe import LanguageModel
from tests import tiny
from tests.gradients.by_hand import weights_with_gradients

BATCHES = [torch.randint(1, 64, (3, 5), generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
PLACE = "transformer.h.1"


class LowRank(torch.nn.Module):
    """A change of low rank, as LoRA makes it, that begins with no effect on its output but with a gradient."""

    def __init__(self, width=32, rank=2):
        super().__init__()
        self.down, self.up = torch.nn.Linear(width, rank, bias=False), torch.nn.Linear(rank, width, bias=False)
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return x + self.up(self.down(x))


class Rotated(torch.nn.Module):
    """Sets the first coordinates of a rotated basis to zero."""

    def __init__(self, width=32, size=4):
        super().__init__()
        self.rotation, self.size = orthogonal(torch.nn.Linear(width, width, bias=False)), size

    def forward(self, x):
        basis = self.rotation.weight[: self.size]
        return x - (x @ basis.T) @ basis


KINDS = {"low rank": LowRank, "rotation": Rotated, "linear": lambda: torch.nn.Linear(32, 32)}


def loss_of(logits, ids):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def train_by_hand(module):
    """What six steps make of a module that a plain hook puts after a block; gives the losses."""
    hf, losses = tiny.hf_model("gpt2"), []
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    handle = hf.get_submodule(PLACE).register_forward_hook(lambda _m, _a, output: module(output))
    try:
        for ids in BATCHES:
            loss = loss_of(hf(ids).logits, ids)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    finally:
        handle.remove()
        hf.zero_grad(set_to_none=True)
    return losses


@pytest.fixture
def model():
    hf = tiny.hf_model("gpt2")
    yield LanguageModel(hf)
    hf.transformer.h[1]._modules.pop("adapter", None)


def held(module, twin, losses, want):
    """The trained module is the one that was trained by hand, and so were its losses on the way."""
    for found, expected in zip(losses, want, strict=True):
        torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-4, rtol=1e-3)
    for mine, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-3, rtol=1e-2)
    assert float(want[-1]) != float(want[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["plain", "attached", "wrapped", "outside"])
def test_a_module_trains_as_with_a_plain_hook(model, kind, how):
    torch.manual_seed(0)
    module = KINDS[kind]()
    twin = copy.deepcopy(module)
    want = train_by_hand(twin)
    block, apply = model.get(PLACE), module
    if how == "attached":
        block.adapter = module
        apply = block.adapter
    elif how == "wrapped":
        apply = loupe.fn(lambda x: module(x))
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=0.05), []
    for ids in BATCHES:
        optimizer.zero_grad()
        with model.trace(ids):
            block.output = apply(block.output)
            loss = loss_of(model.output, ids)
            if how == "outside":
                loss.save()
            else:
                loss.backward()
                losses.append(loss.detach().save())
        if how == "outside":
            loss.backward()
            losses.append(loss.detach().clone())
        optimizer.step()
    held(module, twin, losses, want)
    assert [name for name in weights_with_gradients(model._model) if "adapter" not in name] == []


def test_prompts_of_one_pass_train_as_a_sum_of_losses(model):
    torch.manual_seed(0)
    module = LowRank()
    twin = copy.deepcopy(module)
    hf = model._model
    handle = hf.get_submodule(PLACE).register_forward_hook(lambda _m, _a, output: twin(output))
    for ids in BATCHES[:3]:
        loss_of(hf(ids).logits, ids).backward()
    handle.remove()
    hf.zero_grad(set_to_none=True)
    with model.trace() as tracer:
        total = 0
        for ids in BATCHES[:3]:
            with tracer.invoke(ids):
                block = model.get(PLACE)
                block.output = module(block.output)
                total = total + loss_of(model.output, ids)
        total.backward()
    torch.testing.assert_close(module.up.weight.grad, twin.up.weight.grad, atol=1e-5, rtol=1e-4)
    assert weights_with_gradients(hf) == []


def test_gradients_add_up_over_blocks_until_the_optimizer_clears_them(model):
    torch.manual_seed(0)
    probe, parts = torch.nn.Linear(32, 1), []
    for ids in BATCHES[:2]:
        with model.trace(ids):
            probe(model.get(PLACE).output).pow(2).mean().backward()
        parts.append(probe.weight.grad.clone())
    alone = []
    for ids in BATCHES[:2]:
        probe.zero_grad()
        hidden = tiny.outputs_of(model._model, [PLACE], ids)[0][PLACE]
        probe(hidden).pow(2).mean().backward()
        alone.append(probe.weight.grad.clone())
    torch.testing.assert_close(parts[0], alone[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(parts[1], alone[0] + alone[1], atol=1e-5, rtol=1e-4)
