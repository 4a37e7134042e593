"""Replace forwards by hand, watch which modules run, and record all that passes in one plain call."""

from contextlib import contextmanager

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from loupe import LanguageModel
from tests import tiny

IDS = torch.tensor([[5, 9, 2, 7]])
OPTIONS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def gpt2() -> LanguageModel:
    return LanguageModel(tiny.hf_model("gpt2"))


@contextmanager
def replaced(module, forwards):
    """Other forwards for a while: `forwards` maps a path to a function of the module's own forward and its call.

    It is called as `function(call, own, *args, **kwargs)`, where `call` counts the calls of the module from 0.
    """
    put = []
    try:
        for path, function in forwards.items():
            inner = module.get_submodule(path)
            calls = iter(range(1_000_000))
            own = inner.forward

            def forward(*args, function=function, calls=calls, own=own, **kwargs):
                return function(next(calls), own, *args, **kwargs)

            inner.forward = forward
            put.append(inner)
        with torch.no_grad():
            yield
    finally:
        for inner in put:
            del inner.forward


def given(value):
    """A forward that gives a value, or a function of the first argument, and does nothing else."""
    return lambda _call, _own, x, *_args, **_kwargs: value(x) if callable(value) else value


@contextmanager
def watched(module, paths):
    """The paths of the modules that begin to run, in order."""
    ran = []
    handles = [
        module.get_submodule(path).register_forward_pre_hook(lambda _module, _args, path=path: ran.append(path))
        for path in paths
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def all_outputs(module, call):
    """Copies of what every module returns while `call` runs: for each path a list with one entry a call."""
    seen = {}

    def keep(path):
        return lambda output: seen.setdefault(path, []).append(tree_map_only(torch.Tensor, torch.Tensor.clone, output))

    with tiny.hooked(module, {path: keep(path) for path, _ in module.named_modules()}):
        call()
    return seen


def all_inputs(module, call):
    """Copies of the `(args, kwargs)` with which every module is called while `call` runs."""
    seen = {}

    def keep(path):
        def note(args, kwargs):
            seen.setdefault(path, []).append(tree_map_only(torch.Tensor, torch.Tensor.clone, (args, kwargs)))

        return note

    with tiny.hooked(module, inputs={path: keep(path) for path, _ in module.named_modules()}):
        call()
    return seen


def tensors(value):
    """The tensors in a value, in order, through tuples, dicts and model outputs."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def same(found, want) -> bool:
    """Whether two values hold equal tensors of one dtype, one by one."""
    one, other = tensors(found), tensors(want)
    return len(one) == len(other) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True)
    )
