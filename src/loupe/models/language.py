"""Wrap language models of the transformers library."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from loupe.envoy.model import Root
from loupe.envoy.names import Rename
from loupe.envoy.ports import Ports
from loupe.envoy.running import run_edited
from loupe.errors import BlockError
from loupe.graph.node import RESULT, Port, Site
from loupe.hosts.transformers import TransformersHost
from loupe.runtime.host import Input
from loupe.runtime.plain import uncompiled
from loupe.trace.generation import Generation
from loupe.trace.handles import isinstance_proxy
from loupe.trace.source import user_line
from loupe.trace.whole_run import generate

_OF_PROMPT = (  # what of a generation's arguments belongs to one prompt of several
    "input_ids",
    "inputs",
    "prompt",
    "attention_mask",
    "token_type_ids",
    "decoder_input_ids",
    "decoder_attention_mask",
)


def bare(value: Any) -> Any:
    """The value of a saved proxy; anything else as it is."""
    return value.value if isinstance_proxy(value) else value


class Generator(Ports):
    """The run of a block as a whole, as something with an output."""

    def __init__(self, home: Root) -> None:
        self._home = home

    def _site(self, port: Port) -> Site:
        return Site(RESULT, "output")

    def _read(self, port: Port) -> Any:
        return self._home.recorder("model.generator.output").read(Site(RESULT, "output"))


class LanguageModel(Root):
    """A language model and its tokenizer, with the inside open to blocks: a decoder, an encoder, or both.

    >>> model = LanguageModel("loupe/landmarks")
    >>> with model.trace("The Eiffel Tower is in"):
    ...     hidden = model.transformer.h[5].output[0].save()    # [batch, seq, hidden]
    ...     logits = model.output.save()                        # [batch, seq, vocab]
    >>> model.tokenizer.decode(logits[0, -1].argmax())
    ' Paris'

    `model` is a Hub id, a local path, the bundled `loupe/landmarks`, or a loaded model (with `tokenizer=`). Its class
    is the one that its config names in `architectures`. Weights are loaded at the first run, or at once with
    `dispatch=True`. `device_map`, `dtype` (or `torch_dtype`), `attn_implementation`, `revision` and every other keyword
    go to `from_pretrained`. A prompt is a string, a list of strings, token ids (a list, a list of lists, an integer
    tensor `[seq]` or `[batch, seq]`), or a mapping with `input_ids`; further arguments of the model are given by name.
    `rename={"transformer.h": "layers"}` gives modules further names: both work.
    `output` is the logits of a model that has them, else what the model returns. Raises LoadError where the model
    cannot be had.

    Prompts of several lengths are padded on the left for a decoder, and on the right for an encoder.

    An encoder-decoder reads the prompt with its encoder, and `decoder_input_ids=` or `labels=` (ids, as in the
    library) with its decoder. Where neither is given, the decoder reads the one token at which a generation starts, so
    that `output[:, -1]` is the first new token's. In a generation the encoder's modules are called once, and the
    decoder's at each step.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module,
        *,
        tokenizer: Any = None,
        dispatch: bool = False,
        revision: str | None = None,
        rename: Rename | None = None,
        **options: Any,
    ) -> None:
        model = uncompiled(model) if isinstance(model, nn.Module) else model
        host = TransformersHost(model, tokenizer=tokenizer, dispatch=dispatch, revision=revision, options=options)
        self._language_host = host
        super().__init__(host, rename)

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

    @property
    def example(self) -> Input | None:
        """One token: every language model can be called with it."""
        return Input(([[0]],), {})

    def _plain_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.edits:
            return run_edited(self, "", args, kwargs, user_line(sys._getframe(2)))
        host = self._language_host
        host.load()
        return host.call(host.merge([Input(tuple(map(bare, args)), kwargs)]))

    def generate(self, *args: Any, **options: Any) -> Any:
        """Generate from a prompt: a block where it is entered with `with`, else the token ids `[batch, seq]`.

        >>> with model.generate("The Eiffel Tower is in", max_new_tokens=3) as tracer:
        ...     with tracer.all():
        ...         model.transformer.h[5].output[0][:, -1] *= 0.9
        ...     ids = tracer.result.save()

        `options` are those of `transformers` generation. Inside an open block it turns the run of that block into a
        generation and gives its token ids, as a value of the block.
        """
        recorder = self.open_recorder()
        if recorder is not None:
            self._refuse_prompt(args, options)
            return generate(recorder, options)
        prompt, options = self.divide(options, generates=True)
        tracer = self.open_block("", args, prompt, user_line(sys._getframe(1)), options)
        return Generation(tracer, lambda: self._plain_generation(args, prompt, options))

    def divide(self, named: Mapping[str, Any], *, generates: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tell what belongs to the prompt from the options of a generation, among arguments given by name."""
        if not generates:
            return dict(named), {}
        prompt = {name: value for name, value in named.items() if name in _OF_PROMPT}
        return prompt, {name: value for name, value in named.items() if name not in prompt}

    @property
    def identity(self) -> tuple[str | None, str | None]:
        """The id of the model and the revision of its weights, where they are known."""
        return self._language_host.identity

    def _refuse_prompt(self, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        given = ["its first argument"] if args else [name for name in _OF_PROMPT if name in options]
        if given:
            raise BlockError(
                f"a generation inside a block has the prompts of the block, and is given one more ({given[0]})",
                remedy="give prompts to model.trace(...) or tracer.invoke(...), and options to generate(...)",
                line=user_line(sys._getframe(2)),
            )

    def _plain_generation(self, args: tuple[Any, ...], prompt: dict[str, Any], options: dict[str, Any]) -> Any:
        if self.edits:
            return run_edited(self, "", args, prompt, user_line(sys._getframe(2)), options)
        host = self._language_host
        host.load()
        return host.call(host.merge([Input(tuple(map(bare, args)), prompt)], options))

    @property
    def generator(self) -> Generator:
        """The generation of a block: `model.generator.output` is its token ids."""
        return Generator(self)

    def __repr__(self) -> str:
        state = "" if self.dispatched else "\n# weights are loaded at the first run"
        return f"LanguageModel({self._language_host.name!r}): {super().__repr__()}{state}"
