"""Host causal language models of the transformers library: load them, tokenize and pad prompts, forward."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loupe.errors import InputError, LoadError
from loupe.graph.graph import Graph
from loupe.graph.node import RESULT, Event, Ref, Site
from loupe.hosts.bundled import bundled_names, bundled_path
from loupe.hosts.prompts import Tokens, join_tokens, tokens_of
from loupe.runtime.host import Batch, Input, lock_of

_DROPOUTS = ("attn_dropout", "attention_dropout")
_FUSED = ("scaled_dot_product_attention",)


class TransformersHost:
    """A causal language model, loaded when it is first run (or at once), and the prompts that it is called with."""

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
        if isinstance(model, os.PathLike):
            model = os.fspath(model)
        self.name = model if isinstance(model, str) else type(model).__name__
        self.dispatched = True
        self._options = _normalized(options or {})
        self._attentions: dict[str, bool] = {}
        self._block_names: frozenset[str] | None = None
        if isinstance(model, nn.Module):
            self._module = model
            self.tokenizer = tokenizer
            self._check_loaded_model()
        else:
            self._source = _source_of(_named(model), revision)
            self.tokenizer = tokenizer if tokenizer is not None else self._load_tokenizer()
            self.dispatched = False
            self._module = self._build_without_weights()
            if dispatch:
                self.load()

    # -- loading -------------------------------------------------------------------------------------------------------

    @property
    def module(self) -> nn.Module:
        """The model; its parameters are on the meta device until it is loaded."""
        return self._module

    @property
    def prefix(self) -> str:
        """A run calls the whole model."""
        return ""

    def load(self) -> None:
        """Load the weights, where that has not happened."""
        if self.dispatched:
            return
        with self.lock:
            if self.dispatched:
                return
            from transformers import AutoModelForCausalLM

            try:
                loaded = AutoModelForCausalLM.from_pretrained(**self._source, **self._options)
            except (OSError, ValueError) as error:
                raise _not_loadable(self.name, error) from error
            loaded.eval()
            _carry_over(self._module, loaded)
            self._module = loaded
            self.dispatched = True

    def _load_tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        source = {key: value for key, value in self._source.items() if value is not None}
        trusted = {k: v for k, v in self._options.items() if k in ("trust_remote_code", "token", "cache_dir")}
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(**source, **trusted)
        except (OSError, ValueError) as error:
            raise _not_loadable(self.name, error) from error
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        return tokenizer

    def _build_without_weights(self) -> nn.Module:
        from transformers import AutoConfig, AutoModelForCausalLM

        options = {k: v for k, v in self._options.items() if k in ("trust_remote_code", "token", "cache_dir")}
        try:
            config = AutoConfig.from_pretrained(**self._source, **options)
        except (OSError, ValueError) as error:
            raise _not_loadable(self.name, error) from error
        building = {
            k: v for k, v in self._options.items() if k in ("attn_implementation", "dtype", "trust_remote_code")
        }
        if building.get("dtype") == "auto":
            building.pop("dtype")
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, **building)
        return model.eval()

    def _check_loaded_model(self) -> None:
        if self.tokenizer is not None:
            return
        config = getattr(self._module, "config", None)
        where = getattr(config, "_name_or_path", "") or ""
        if where and (Path(where).is_dir() or bundled_path(where)):
            self._source = _source_of(where, None)
            self.tokenizer = self._load_tokenizer()

    # -- prompts -------------------------------------------------------------------------------------------------------

    def merge(self, inputs: Sequence[Input], generation: dict[str, Any] | None = None) -> Batch:
        """One call for several prompts, padded on the left, with position ids where a row is padded.

        With `generation` it is a call of `generate` with these options, which counts positions itself.

        Raises InputError for an empty prompt, and for one that is longer than the model's table of positions.
        """
        parts = [tokens_of(each, self.tokenizer) for each in inputs]
        for part, each in zip(parts, inputs, strict=True):
            self._check_length(part, each)
            self._check_vocabulary(part, each)
        try:
            joined = join_tokens(parts, self.tokenizer)
        except InputError as error:
            raise InputError(error.fact, remedy=error.remedy, line=error.line or inputs[-1].line) from None
        device = self._input_device()
        kwargs: dict[str, Any] = {"input_ids": joined.ids.to(device)}
        accepted = self._accepted()
        if joined.has_mask and "attention_mask" in accepted:
            kwargs["attention_mask"] = joined.mask.to(device)
        if joined.padded and generation is None and "position_ids" in accepted and "position_ids" not in joined.extra:
            kwargs["position_ids"] = positions(joined.mask).to(device)
        for name, value in joined.extra.items():
            kwargs[name] = value.to(device) if isinstance(value, torch.Tensor) else value
        sizes = [part.ids.shape[0] for part in parts]
        starts = [sum(sizes[:place]) for place in range(len(sizes))]
        rows = tuple(zip(starts, sizes, strict=True))
        if generation is None:
            return Batch((), kwargs, rows, sum(sizes))
        return Batch((), {**kwargs, **generation}, rows, sum(sizes), "generate")

    def call(self, batch: Batch) -> Any:
        """The forward pass, or a generation."""
        run: Any = self._module.generate if batch.method == "generate" else self._module
        return run(*batch.args, **batch.kwargs)

    def steps(self, batch: Batch) -> int:
        """The most new tokens that a generation can have, as the transformers library counts them."""
        if batch.method != "generate":
            return 1
        config = batch.kwargs.get("generation_config") or getattr(self._module, "generation_config", None)
        new = batch.kwargs.get("max_new_tokens")
        most = batch.kwargs.get("max_length")
        if new is None and most is None:
            new, most = getattr(config, "max_new_tokens", None), getattr(config, "max_length", None)
        if new is not None:
            return int(new)
        return max(int(most or 20) - batch.kwargs["input_ids"].shape[1], 1)

    def _accepted(self) -> frozenset[str]:
        return _parameters_of(type(self._module))

    def _input_device(self) -> torch.device:
        get = getattr(self._module, "get_input_embeddings", None)
        embeddings: nn.Module | None = get() if get is not None else None
        found = next((embeddings or self._module).parameters(), None)
        if found is None or found.is_meta:
            return torch.device("cpu")
        return found.device

    def _check_length(self, part: Tokens, each: Input) -> None:
        """A learned table of positions has an end; rotary and other computed positions have none here."""
        most = getattr(getattr(self._module, "config", None), "max_position_embeddings", None)
        if not isinstance(most, int) or part.ids.shape[-1] <= most:
            return
        length = int(part.mask.sum(-1).max())
        if length <= most:
            return
        tables = (
            m
            for name, m in self._module.named_modules()
            if isinstance(m, nn.Embedding) and ("pos" in name or "wpe" in name)
        )
        if any(most <= table.num_embeddings <= most + 2 for table in tables):
            raise InputError(
                f"the prompt has {length} tokens, and the model has positions for {most}",
                remedy="shorten the prompt, or split it over several invokes",
                line=each.line,
            )

    def _check_vocabulary(self, part: Tokens, each: Input) -> None:
        get = getattr(self._module, "get_input_embeddings", None)
        size = getattr(get() if get is not None else None, "num_embeddings", None)
        lowest, highest = int(part.ids.min()), int(part.ids.max())
        if isinstance(size, int) and not 0 <= lowest <= highest < size:
            raise InputError(
                f"the token id {lowest if lowest < 0 else highest} is not in the model's vocabulary of {size}",
                remedy="pass ids from the model's own tokenizer",
                line=each.line,
            )

    # -- how a run is set up -------------------------------------------------------------------------------------------

    def settings(self, graph: Graph, module: nn.Module) -> AbstractContextManager[None]:
        """Eager attention for the length of a run whose graph reads a pattern; the fast kernel for every other.

        A copy, which has no data, runs its experts in the way that does not depend on data.
        """
        changes = {"_attn_implementation_internal": "eager"} if self._reads_pattern(graph) else {}
        if module is not self._module and all(module is not each for each in self._module.modules()):
            changes["_experts_implementation_internal"] = "batched_mm"
        return configured(module, changes) if changes else nullcontext()

    def settings_key(self, graph: Graph) -> str:
        """Which of the two a graph runs with."""
        return "eager" if self._reads_pattern(graph) else ""

    def stand_in(self, site: Site) -> Site | None:
        """The dropout function that current attention code calls in place of its dropout module."""
        parent, _, name = site.path.rpartition(".")
        if name not in _DROPOUTS or site.op is not None:
            return None
        return Site(parent, site.port, site.call, "dropout", 0)

    def reorders(self, event: Event) -> bool:
        """What passes inside experts is sorted by expert, in an order that depends on the data."""
        path = event.path if event.op is not None else event.path.rpartition(".")[0]
        while path:
            if "experts" in type(self._module.get_submodule(path)).__name__.lower():
                return True
            path = path.rpartition(".")[0]
        return False

    def _reads_pattern(self, graph: Graph) -> bool:
        attentions: set[int] = set()
        for node in graph:
            if node.kind in ("read", "write"):
                if node.gradient_of is not None or node.site.path == RESULT:
                    continue
                site = node.site
                if site.path.rpartition(".")[2] in _DROPOUTS:
                    return True
                if self.is_attention(site.path):
                    if site.op is not None and site.op not in _FUSED:
                        return True
                    attentions.add(node.id)
            elif node.target == "operator.getitem" and node.args[1] == 1:
                whole = node.args[0]
                if type(whole) is Ref and whole.node in attentions:
                    return True
        return False

    def is_attention(self, path: str) -> bool:
        """Whether a module computes attention, by the library's own class names."""
        found = self._attentions.get(path)
        if found is None:
            name = type(self._module.get_submodule(path)).__name__
            found = self._attentions[path] = bool(path) and "attention" in name.lower()
        return found

    def view(self, path: str, port: str) -> str | None:
        """How a site is to be seen: the model's output as logits, a decoder block's output by its hidden states."""
        if port != "output":
            return None
        if not path:
            return "logits" if self._is_causal() else None
        return "hidden_states" if self._is_block(path) else None

    def _is_causal(self) -> bool:
        get = getattr(self._module, "get_output_embeddings", None)
        return get is not None and get() is not None

    def _is_block(self, path: str) -> bool:
        parent, _, _name = path.rpartition(".")
        if not isinstance(self._module.get_submodule(parent), nn.ModuleList):
            return False
        module = self._module.get_submodule(path)
        if self._block_names is None:
            named = (getattr(base, "_no_split_modules", None) or () for base in self._module.modules())
            self._block_names = frozenset(name for names in named for name in names)
        bases = {base.__name__ for base in type(module).__mro__}
        return type(module).__name__ in self._block_names or "GradientCheckpointingLayer" in bases


@cache
def _parameters_of(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Position ids `[rows, seq]` for rows padded on the left: each row's first token is at 0."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


@contextmanager
def configured(module: nn.Module, changes: dict[str, str]) -> Generator[None]:
    """Let a model compute attention or experts in another way for a while."""
    configs = {id(m.config): m.config for m in module.modules() if hasattr(m, "config")}
    before = [(c, name, getattr(c, name)) for c in configs.values() for name in changes if hasattr(c, name)]
    try:
        for config, name, _ in before:
            setattr(config, name, changes[name])
        yield
    finally:
        for config, name, value in before:
            setattr(config, name, value)


def _normalized(options: dict[str, Any]) -> dict[str, Any]:
    if "torch_dtype" in options:
        options["dtype"] = options.pop("torch_dtype")
    return {key: value for key, value in options.items() if value is not None}


def _carry_over(before: nn.Module, after: nn.Module) -> None:
    """Modules that the user attached before the weights were there."""
    known = dict(after.named_modules(remove_duplicate=False))
    for path, module in before.named_modules(remove_duplicate=False):
        parent, _, name = path.rpartition(".")
        if path not in known and parent in known:
            known[parent].add_module(name, module)


def _named(model: Any) -> str:
    if not isinstance(model, str):
        raise LoadError(
            f"{type(model).__name__} is no language model", remedy="pass a Hub id, a local path, or a loaded model"
        )
    return model


def _source_of(name: str, revision: str | None) -> dict[str, Any]:
    if not name:
        raise LoadError("the model's name is empty", remedy="pass a Hub id, a local path, or 'loupe/landmarks'")
    bundled = bundled_path(name)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(bundled) if bundled else name}
    if revision is not None and bundled is None:
        source["revision"] = revision
    return source


def _not_loadable(name: str, error: Exception) -> LoadError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return LoadError(
        f"the model {name!r} cannot be loaded: {first}",
        remedy="pass a Hub id that can be reached, a local path, a loaded model, "
        f"or one of {', '.join(bundled_names())}",
    )
