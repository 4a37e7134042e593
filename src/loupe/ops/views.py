"""Show outputs of Hugging Face models in one shape: a block's hidden states, a causal language model's logits."""

from __future__ import annotations

import copy
import functools
import logging
from typing import Any

import torch


class CausalLMLogits(torch.Tensor):
    """Logits `[batch, seq, vocab]` that remember the model output which they belong to.

    For indexing, operators and torch functions it is the logits tensor, and results are plain tensors. `.logits`,
    `.past_key_values`, `.loss` and the other fields of the model output are its attributes; `["logits"]` works as on
    the output.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyrefly: ignore[bad-override]
    model_output: Any

    def __getattr__(self, name: str) -> Any:
        output = self.__dict__.get("model_output")
        if output is not None and not name.startswith("_"):
            try:
                return getattr(output, name)
            except AttributeError:
                pass
        raise AttributeError(f"no attribute {name!r} on the logits or on the model's output")

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.__dict__["model_output"][key]
        return super().__getitem__(key)

    def __reduce_ex__(self, proto: Any) -> Any:
        return self.as_subclass(torch.Tensor).__reduce_ex__(proto)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self.as_subclass(torch.Tensor).clone()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return repr(self.as_subclass(torch.Tensor))

    def __format__(self, format_spec: str) -> str:
        return format(self.as_subclass(torch.Tensor), format_spec)


class BlockOutput(torch.Tensor):
    """What a decoder block returned, kept past its block: `[0]` is its hidden states `[batch, seq, hidden]`."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyrefly: ignore[bad-override]

    def __getitem__(self, key: Any) -> Any:
        plain = self.as_subclass(torch.Tensor)
        return hidden_states(plain) if type(key) is int and key == 0 else plain[key]

    def __reduce_ex__(self, proto: Any) -> Any:
        return self.as_subclass(torch.Tensor).__reduce_ex__(proto)

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self.as_subclass(torch.Tensor).clone()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return repr(self.as_subclass(torch.Tensor))


def block_output(output: Any) -> Any:
    """A decoder block's output in which `[0]` means the hidden states, whether it is a tensor or a tuple."""
    return output.as_subclass(BlockOutput) if isinstance(output, torch.Tensor) else output


def logits(output: Any) -> Any:
    """A causal language model's output seen as its logits; a tensor passes through."""
    if isinstance(output, torch.Tensor):
        return output
    found = output[0] if isinstance(output, tuple) else getattr(output, "logits", None)
    if not isinstance(found, torch.Tensor):
        return output
    seen = found.as_subclass(CausalLMLogits)
    seen.model_output = output
    return seen


def with_logits(output: Any, value: Any) -> Any:
    """A causal language model's output with other logits."""
    if isinstance(value, CausalLMLogits):
        value = value.as_subclass(torch.Tensor)
    if not isinstance(value, torch.Tensor) or isinstance(output, torch.Tensor):
        return value
    if isinstance(output, tuple):
        return (value, *output[1:])
    fields = dict(output)
    fields["logits"] = value
    return type(output)(**fields)


def hidden_states(output: Any) -> Any:
    """A decoder block's hidden states: the first entry of a tuple, or the tensor itself."""
    if isinstance(output, torch.Tensor):
        _notice_stable_output()
        return output
    return output[0]


@functools.cache
def _notice_stable_output() -> None:
    """Say once in a process that `[0]` is not an index here."""
    logging.getLogger("loupe").warning(
        "the decoder blocks of this model return their hidden states as a tensor; `.output[0]` means these states "
        "[batch, seq, hidden], not the first row (CONFIG.version_stable_outputs = False turns this off)"
    )


def with_hidden_states(output: Any, value: Any) -> Any:
    """A decoder block's output with other hidden states."""
    if isinstance(output, torch.Tensor):
        return value
    return (value, *output[1:]) if isinstance(output, tuple) else [value, *output[1:]]


def last_step(steps: list[Any]) -> Any:
    """A value of each step of a generation, as it is at the last one: what the steps gave, in order."""
    return steps[-1]


def first_input(inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """The first positional argument, or the first keyword argument where there is no positional one."""
    args, kwargs = inputs
    if args:
        return args[0]
    return next(iter(kwargs.values()), None)


def set_item(value: Any, key: Any, item: Any) -> Any:
    """`value[key] = item`, and what has the entry then: a tensor, list or dict itself, a tuple or model output anew."""
    if isinstance(value, tuple) or (isinstance(value, dict) and type(value) is not dict):
        return with_item(value, key, item)
    value[key] = item
    return value


def with_item(value: Any, key: Any, item: Any) -> Any:
    """A tuple, list, dict or model output with another entry."""
    if isinstance(value, tuple):
        items = [*value[:key], item, *value[key + 1 :]] if key != -1 else [*value[:-1], item]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, torch.Tensor):
        changed = value.clone()
        changed[key] = item
        return changed
    changed = copy.copy(value)
    if isinstance(key, int) and not isinstance(value, list) and key not in value:
        key = list(value)[key]  # a model output counts its fields
    changed[key] = item
    return changed
