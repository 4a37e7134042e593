"""Host language models of the transformers library: load them, make batches of prompts, forward, generate."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from loupe.errors import InputError, LoadError
from loupe.graph.graph import Graph
from loupe.graph.node import Event, Site
from loupe.hosts.attention import Attention
from loupe.hosts.families import can_generate, is_decoder
from loupe.hosts.generation import most_new_tokens, option
from loupe.hosts.loading import Checkpoint, carry_over, local_checkpoint
from loupe.hosts.outputs import Outputs
from loupe.hosts.padding import join_tokens
from loupe.hosts.prompts import Form, Tokens, tokens_of
from loupe.hosts.tables import check_vocabulary, embeddings_of, input_device, padding_id, positions_of
from loupe.runtime.host import Batch, Input, lock_of
from loupe.runtime.plain import named_parts, submodule

_MOST_KNOWN = 16
_TARGETS = ("decoder_input_ids", "labels", "decoder_inputs_embeds")


class TransformersHost:
    """A language model, loaded when it is first run (or at once), and the prompts that it is called with."""

    def __init__(
        self,
        model: str | os.PathLike[str] | nn.Module,
        *,
        tokenizer: Any = None,
        dispatch: bool = False,
        revision: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.lock = lock_of(model) if isinstance(model, nn.Module) else threading.RLock()
        self.dispatched = isinstance(model, nn.Module)
        self._revision = revision
        self._id = None if isinstance(model, nn.Module) else _named(model)
        if isinstance(model, nn.Module):
            self.name = type(model).__name__
            self._module = model
            self._checkpoint = local_checkpoint(model) if tokenizer is None else None
        else:
            self.name = _named(model)
            self._checkpoint = Checkpoint(self.name, revision, options)
            self._module = self._checkpoint.without_weights()
        if tokenizer is None and self._checkpoint is not None:
            tokenizer = self._checkpoint.tokenizer(self._module)
        self.tokenizer = tokenizer
        self._table_at: tuple[str, nn.Module] | None = None
        self._known: dict[tuple[int, ...], _Known] = {}
        self._left = is_decoder(self._module)
        self._positions = positions_of(self._module)
        self._attention = Attention(lambda: self._module)
        self._outputs = Outputs(lambda: self._module)
        if dispatch:
            self.load()

    @property
    def module(self) -> nn.Module:
        """The model; its parameters are on the meta device until it is loaded."""
        return self._module

    @property
    def prefix(self) -> str:
        """A run calls the whole model."""
        return ""

    @property
    def identity(self) -> tuple[str | None, str | None]:
        """The id under which the model is had, and the commit or name of its revision, where they are known."""
        config = getattr(self._module, "config", None)
        name = self._id or getattr(config, "_name_or_path", None)
        if name and Path(name).is_dir():  # where a model lies is nobody else's business
            name = None
        return name or None, getattr(config, "_commit_hash", None) or self._revision

    def load(self) -> None:
        """Load the weights, where that has not happened."""
        if self.dispatched:
            return
        with self.lock:
            if self.dispatched:
                return
            assert self._checkpoint is not None
            loaded = self._checkpoint.load()
            carry_over(self._module, loaded)
            self._module = loaded
            self.dispatched = True

    # -- prompts -------------------------------------------------------------------------------------------------------

    def merge(self, inputs: Sequence[Input], generation: dict[str, Any] | None = None) -> Batch:
        """One call for several prompts, padded to one length, with position ids where a row is padded on the left.

        With `generation` it is a call of `generate` with these options, which counts positions itself. A second stack
        for which nothing is given reads the token at which a generation starts. Token ids that were given before, and
        are as they were, make the same call again.

        Raises InputError for an empty prompt, and for one that is longer than the model's table of positions.
        """
        given = _bare_ids(inputs) if generation is None else None
        if given is None or "decoder_input_ids" in _parameters_of(self._module):
            return self._merged(inputs, generation)
        key, now = tuple(map(id, given)), self._surroundings(several=len(given) > 1)
        known = self._known.get(key)
        if known is None or known.surroundings != now or not all(map(torch.equal, known.given, known.as_given)):
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[key] = _Known(given, [ids.clone() for ids in given], now, self._merged(inputs, None))
        return known.again()

    def _surroundings(self, *, several: bool) -> tuple[Any, ...]:
        """What, besides token ids, decides about the call that they make; for several of them also the padding."""
        table = self._table()
        size, device = getattr(table, "num_embeddings", None), input_device(self._module, table)
        pad = padding_id(self._module, table, self.tokenizer) if several else None
        return self._module, table, size, device, pad

    def _merged(self, inputs: Sequence[Input], generation: dict[str, Any] | None) -> Batch:
        if generation is not None and not can_generate(self._module):
            raise InputError(
                f"{type(self._module).__name__} cannot generate",
                remedy="use trace(...), or a model with a head that the library generates with",
                line=inputs[0].line,
            )
        accepted, table = _parameters_of(self._module), self._table()
        form = self._form(accepted, table)
        parts = [tokens_of(each, form) for each in inputs]
        for part, each in zip(parts, inputs, strict=True):
            self._positions.check(part.longest, each.line)
            check_vocabulary(table, part.ids, each.line)
            targets = part.extra.get("decoder_input_ids")
            if form.decodes and targets is not None:
                self._positions.check(targets.shape[1], each.line)
                check_vocabulary(table, targets, each.line)
        if form.decodes and generation is None:
            parts = [self._started(part, each) for part, each in zip(parts, inputs, strict=True)]
        try:
            joined = join_tokens(parts, form)
        except InputError as error:
            raise InputError(error.fact, remedy=error.remedy, line=error.line or inputs[-1].line) from None
        if "attention_mask" not in accepted and not bool(joined.mask.all()):
            raise InputError(
                f"{type(self._module).__name__} takes no attention_mask, so shorter prompts would see their padding",
                remedy="give prompts with the same number of tokens, or trace each alone",
                line=inputs[-1].line,
            )
        device = input_device(self._module, table)
        kwargs = self._arguments(joined, accepted, device, counts=generation is None)
        sizes = [part.ids.shape[0] for part in parts]
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        rows = tuple(zip(starts, sizes, strict=True))
        if generation is None:
            return Batch((), kwargs, rows, sum(sizes))
        unequal = kwargs.get("decoder_attention_mask")
        if unequal is not None and not bool(unequal[:, -1].all()):
            raise InputError(
                "a generation cannot go on from decoder inputs of several lengths",
                remedy="give decoder_input_ids of one length, or generate from each prompt alone",
                line=inputs[-1].line,
            )
        return Batch((), {**kwargs, **generation}, rows, sum(sizes), "generate")

    def call(self, batch: Batch) -> Any:
        """The forward pass, or a generation."""
        if batch.method != "generate":
            return self._module(*batch.args, **batch.kwargs)
        whole: Any = self._module
        strings = option(whole, batch.kwargs, "stop_strings")
        options = batch.kwargs if strings is None else {"tokenizer": self.tokenizer, **batch.kwargs}
        return whole.generate(*batch.args, **options)

    def steps(self, batch: Batch) -> int:
        """The most new tokens that a generation can have, as the transformers library counts them."""
        if batch.method != "generate":
            return 1
        if self._decodes(_parameters_of(self._module)):
            given = batch.kwargs.get("decoder_input_ids")
            there = 1 if given is None else given.shape[1]
        else:
            there = batch.kwargs["input_ids"].shape[1]
        return most_new_tokens(self._module, batch.kwargs, there)

    def _table(self) -> nn.Module | None:
        """The table of embeddings: the library's own search is slow, so the path of what it found is looked up."""
        if self._table_at is not None:
            path, table = self._table_at
            try:
                if submodule(self._module, path) is table:
                    return table
            except KeyError:
                pass
        found = embeddings_of(self._module)
        paths = (path for path, part in named_parts(self._module) if part is found)
        path = next(paths, None)
        self._table_at = None if found is None or path is None else (path, found)
        return found

    def _form(self, accepted: frozenset[str], table: nn.Module | None) -> Form:
        """How this model takes prompts.

        A second stack's ids are the user's business where a head other than a language model's is on it: such models
        make them from the prompt.
        """
        return Form(
            self.tokenizer,
            lambda: padding_id(self._module, table, self.tokenizer),
            self._left,
            types=not self._left and "token_type_ids" in accepted,
            decodes=self._decodes(accepted),
        )

    def _decodes(self, accepted: frozenset[str]) -> bool:
        """Whether a second stack reads ids of its own, which the user gives or the start of a generation does."""
        if "decoder_input_ids" not in accepted:
            return False
        return getattr(self._module, "base_model", self._module) is self._module or can_generate(self._module)

    def _started(self, part: Tokens, each: Input) -> Tokens:
        """An input whose second stack has something to read."""
        if any(part.extra.get(name) is not None for name in _TARGETS):
            return part
        for config in (getattr(self._module, "generation_config", None), getattr(self._module, "config", None)):
            for name in ("decoder_start_token_id", "bos_token_id"):
                start = getattr(config, name, None)
                if isinstance(start, int):
                    return part.having("decoder_input_ids", torch.full((part.ids.shape[0], 1), start))
        raise InputError(
            "the model's config names no token at which its decoder starts",
            remedy="give decoder_input_ids= or labels= beside the prompt",
            line=each.line,
        )

    def _arguments(
        self, tokens: Tokens, accepted: frozenset[str], device: torch.device, *, counts: bool
    ) -> dict[str, Any]:
        """What the model is called with; `counts` says that positions are to be counted here."""
        kwargs: dict[str, Any] = {"input_ids": tokens.ids}
        if tokens.has_mask and "attention_mask" in accepted:
            kwargs["attention_mask"] = tokens.mask
        if counts and tokens.padded_left and "position_ids" in accepted and "position_ids" not in tokens.extra:
            kwargs["position_ids"] = self._positions.ids(tokens.mask)
        kwargs |= tokens.extra
        return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()}

    # -- how a run is set up -------------------------------------------------------------------------------------------

    def settings(self, graph: Graph, module: nn.Module) -> AbstractContextManager[None]:
        """Eager attention for the length of a run whose graph reads a pattern; the fast kernel for every other."""
        return self._attention.settings(graph, module)

    def settings_key(self, graph: Graph) -> str:
        """Which of the two a graph runs with."""
        return self._attention.settings_key(graph)

    def stand_in(self, site: Site) -> Site | None:
        """The dropout function that current attention code calls in place of its dropout module."""
        return self._attention.stand_in(site)

    def reorders(self, event: Event) -> bool:
        """What passes inside experts is sorted by expert, in an order that depends on the data."""
        return self._attention.reorders(event)

    def blocks(self) -> list[str]:
        """The paths of the decoder blocks."""
        return self._outputs.blocks()

    def view(self, path: str, port: str) -> str | None:
        """The model's output as logits where it has them, a block's output by its hidden states."""
        return self._outputs.view(path, port)


class _Known(NamedTuple):
    """Token ids that were given, what they were then, and the call that they make.

    What they were is compared: memory that numpy has too changes without a trace.
    """

    given: list[torch.Tensor]
    as_given: list[torch.Tensor]
    surroundings: tuple[Any, ...]
    call: Batch

    def again(self) -> Batch:
        """The call, with tensors that a pass may change; the user's own are handed on as they are."""
        own = {id(ids) for ids in self.given}
        kwargs = {
            name: value if id(value) in own or not isinstance(value, torch.Tensor) else value.clone()
            for name, value in self.call.kwargs.items()
        }
        return self.call._replace(kwargs=kwargs)


def _bare_ids(inputs: Sequence[Input]) -> list[torch.Tensor] | None:
    """The token ids of the inputs, where nothing else is given."""
    found: list[torch.Tensor] = []
    for args, kwargs, _ in inputs:
        ids = args[0] if len(args) == 1 and not kwargs else None
        if type(ids) is not torch.Tensor or ids.is_floating_point():
            return None
        found.append(ids)
    return found


def _parameters_of(module: nn.Module) -> frozenset[str]:
    """What a model takes by name; one with adapters hands on what the model inside takes."""
    own = _parameters_of_class(type(module))
    if not hasattr(type(module), "get_base_model"):
        return own
    inside: Any = module
    return own | _parameters_of_class(type(inside.get_base_model()))


@cache
def _parameters_of_class(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def _named(model: Any) -> str:
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    if not isinstance(model, str):
        raise LoadError(
            f"{type(model).__name__} is no language model", remedy="pass a Hub id, a local path, or a loaded model"
        )
    return model
