"""Compute gradients by hand: plain hooks keep what modules return, and plain autograd does the rest."""

from contextlib import contextmanager

import torch

from tests import tiny

IDS = torch.tensor([[5, 9, 2, 7]])


def blocks_of(family: str) -> list[str]:
    """The paths of the decoder blocks of a family's tiny model."""
    return [f"{tiny.BLOCKS[family]}.{place}" for place in range(3)]


@contextmanager
def keeping(module: torch.nn.Module, paths, change=None):
    """Give the tensors that modules return, each with its gradient kept; `change` maps a path to a function of one.

    Weights have no gradient afterwards.
    """
    kept, change, handles = {}, change or {}, []

    def hook_for(path):
        def hook(_module, _args, output):
            first = output[0] if isinstance(output, tuple) else output
            if path in change:
                first = change[path](first)
            if not first.requires_grad:
                first.requires_grad_()
            first.retain_grad()
            kept[path] = first
            return (first, *output[1:]) if isinstance(output, tuple) else first

        return hook

    for path in paths:
        handles.append(module.get_submodule(path).register_forward_hook(hook_for(path)))
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
        module.zero_grad(set_to_none=True)


def gradients(family: str, ids=IDS, loss_of=None, change=None, module=None) -> list[torch.Tensor]:
    """Gradients by each block's output; of the last token's first logit, unless `loss_of(logits)` says another."""
    module = tiny.hf_model(family) if module is None else module
    loss_of = loss_of or last_logit
    with keeping(module, blocks_of(family), change) as kept:
        loss_of(module(ids).logits).backward()
        return [kept[path].grad for path in blocks_of(family)]


def last_logit(logits: torch.Tensor) -> torch.Tensor:
    """The last token's first logit."""
    return logits[:, -1, 0].sum()


def weights_with_gradients(module: torch.nn.Module) -> list[str]:
    """The names of the parameters that have a gradient."""
    return [name for name, parameter in module.named_parameters() if parameter.grad is not None]
