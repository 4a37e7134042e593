"""Wrap causal language models of the transformers library."""

from __future__ import annotations

from typing import Any

from torch import nn

from loupe.envoy.model import Root
from loupe.hosts.transformers import TransformersHost
from loupe.runtime.host import Input
from loupe.trace.proxy import isinstance_proxy


class LanguageModel(Root):
    """A causal language model and its tokenizer, with the inside open to blocks.

    >>> model = LanguageModel("loupe/landmarks")
    >>> with model.trace("The Eiffel Tower is in"):
    ...     hidden = model.transformer.h[5].output[0].save()    # [batch, seq, hidden]
    ...     logits = model.output.save()                        # [batch, seq, vocab]
    >>> model.tokenizer.decode(logits[0, -1].argmax())
    ' Paris'

    `model` is a Hub id, a local path, the bundled `loupe/landmarks`, or a loaded model (with `tokenizer=`). Weights are
    loaded at the first run, or at once with `dispatch=True`. `device_map`, `dtype` (or `torch_dtype`),
    `attn_implementation`, `revision` and every other keyword go to `from_pretrained`. A prompt is a string, a list of
    strings, token ids (a list, a list of lists, an integer tensor `[seq]` or `[batch, seq]`), or a mapping with
    `input_ids`. Raises LoadError where the model cannot be had.
    """

    def __init__(
        self,
        model: str | nn.Module,
        *,
        tokenizer: Any = None,
        dispatch: bool = False,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        host = TransformersHost(model, tokenizer=tokenizer, dispatch=dispatch, revision=revision, options=options)
        self._language_host = host
        super().__init__(host)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the transformers library; None for a loaded model that came without one."""
        return self._language_host.tokenizer

    @property
    def dispatched(self) -> bool:
        """Whether the weights are loaded."""
        return self._language_host.dispatched

    def dispatch(self) -> None:
        """Load the weights now."""
        self._language_host.load()

    def _plain_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args = tuple(arg.value if isinstance_proxy(arg) else arg for arg in args)
        self._language_host.load()
        batch = self._language_host.merge([Input(args, kwargs)])
        return self._language_host.module(**batch.kwargs)

    def __repr__(self) -> str:
        state = "" if self.dispatched else "\n# weights are loaded at the first run"
        return f"LanguageModel({self._language_host.name!r}): {super().__repr__()}{state}"
