"""Load a model of the transformers library by its name: its tokenizer, its tree without weights, its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from loupe.errors import LoadError
from loupe.hosts.bundled import bundled_names, bundled_path
from loupe.hosts.families import auto_class, is_decoder

_OF_ACCESS = ("trust_remote_code", "token", "cache_dir")
_OF_BUILDING = ("attn_implementation", "dtype", "trust_remote_code")


class Checkpoint:
    """A model that is had by its name: a Hub id, a local path, or the id of a bundled model.

    `options` go to `from_pretrained`. Each method raises LoadError where it cannot be had.
    """

    def __init__(self, name: str, revision: str | None = None, options: dict[str, Any] | None = None) -> None:
        if not name:
            raise LoadError("the model's name is empty", remedy="pass a Hub id, a local path, or 'loupe/landmarks'")
        self.name = name
        bundled = bundled_path(name)
        self._source: dict[str, Any] = {"pretrained_model_name_or_path": str(bundled) if bundled else name}
        if revision is not None and bundled is None:
            self._source["revision"] = revision
        self._options = _normalized(options or {})
        self._access = {k: v for k, v in self._options.items() if k in _OF_ACCESS}

    def tokenizer(self, module: nn.Module) -> Any:
        """The tokenizer, padding as the model's prompts are padded."""
        from transformers import AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(**self._source, **self._access)
        except (OSError, ValueError) as error:
            raise self._not_loadable(error) from error
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
            tokenizer.pad_token = tokenizer.eos_token
        if is_decoder(module):
            tokenizer.padding_side = "left"
        return tokenizer

    def without_weights(self) -> nn.Module:
        """The model with parameters that have no data."""
        from transformers import AutoConfig, GenerationConfig

        building = {k: v for k, v in self._options.items() if k in _OF_BUILDING and (k, v) != ("dtype", "auto")}
        try:
            config = AutoConfig.from_pretrained(**self._source, **self._access)
            self._auto_class = auto_class(config)
            with torch.device("meta"):
                model: Any = self._auto_class.from_config(config, **building)
        except (OSError, ValueError) as error:
            raise self._not_loadable(error) from error
        if model.can_generate():
            try:
                model.generation_config = GenerationConfig.from_pretrained(
                    self._source["pretrained_model_name_or_path"],
                    **{k: v for k, v in {**self._source, **self._access}.items() if k in ("revision", *_OF_ACCESS)},
                )
            except OSError:
                pass  # a model need not have one: its config serves, as in the library
        return model.eval()

    def load(self) -> nn.Module:
        """The model with its weights."""
        try:
            model: Any = self._auto_class.from_pretrained(**self._source, **self._options)
        except (OSError, ValueError) as error:
            raise self._not_loadable(error) from error
        return model.eval()

    def _not_loadable(self, error: Exception) -> LoadError:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return LoadError(
            f"the model {self.name!r} cannot be loaded: {first}",
            remedy="pass a Hub id that can be reached, a local path, a loaded model, "
            f"or one of {', '.join(bundled_names())}",
        )


def local_checkpoint(module: nn.Module) -> Checkpoint | None:
    """Where a loaded model came from, if that is a folder of this machine."""
    where = getattr(getattr(module, "config", None), "_name_or_path", "") or ""
    return Checkpoint(where) if where and (Path(where).is_dir() or bundled_path(where)) else None


def carry_over(before: nn.Module, after: nn.Module) -> None:
    """Bring along modules that the user attached before the weights were there."""
    known = dict(after.named_modules(remove_duplicate=False))
    for path, module in before.named_modules(remove_duplicate=False):
        parent, _, name = path.rpartition(".")
        if path not in known and parent in known:
            known[parent].add_module(name, module)


def _normalized(options: dict[str, Any]) -> dict[str, Any]:
    options = dict(options)
    if "torch_dtype" in options:
        options["dtype"] = options.pop("torch_dtype")
    return {key: value for key, value in options.items() if value is not None}
