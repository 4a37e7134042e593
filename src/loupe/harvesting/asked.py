"""Say what a harvest was asked for, as data, so that a later call can tell whether it goes on with the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from loupe.envoy.model import Root
from loupe.files.neutral import without_torch
from loupe.harvesting.layout import Stored
from loupe.wire.document import content_hash

_SAMPLES = 16  # entries of each parameter that its digest looks at


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: the model, its modules, the prompts, and how they are stored.

    `fingerprint` is a digest of the model's tree, `weights` one of some entries of every parameter, `edits` are the
    hashes of the model's edits. `data` is a digest of all token ids.
    """

    model: str | None
    revision: str | None
    kind: str
    fingerprint: str
    weights: str
    edits: tuple[str, ...]
    modules: Mapping[str, Stored]
    tokens: str
    prompts: int
    data: str
    shard_size: int

    def to_json(self) -> dict[str, Any]:
        """The request as plain data."""
        found = asdict(self)
        found["edits"] = list(self.edits)
        found["modules"] = [[path, each.dtype, list(each.shape)] for path, each in self.modules.items()]
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Request:
        """The request that was written; raises KeyError, TypeError or ValueError for anything else."""
        found = {each.name: value[each.name] for each in fields(cls)}
        found["edits"] = tuple(found["edits"])
        found["modules"] = {path: Stored(tuple(shape), dtype) for path, dtype, shape in found["modules"]}
        return cls(**found)

    def differences(self, there: Request) -> list[str]:
        """In what another request differs, each as a phrase."""
        found = []
        for each in fields(self):
            here, before = getattr(self, each.name), getattr(there, each.name)
            if here != before:
                found.append(_phrase(each.name, here, before))
        return found


def _phrase(name: str, here: Any, before: Any) -> str:
    if name in _SAID:
        return _SAID[name]
    if name == "modules":
        if here.keys() != before.keys():
            return f"the modules: {', '.join(before)} there, {', '.join(here)} here"
        path = next(path for path in here if here[path] != before[path])
        return f"what is kept of {path}: {_stored(before[path])} there, {_stored(here[path])} here"
    return f"{name.replace('_', ' ')}: {before!r} there, {here!r} here"


def _stored(stored: Stored) -> str:
    return f"{stored.dtype} {list(stored.shape)}"


_SAID = {
    "fingerprint": "the tree of the model's modules",
    "weights": "the model's weights",
    "edits": "the model's edits",
    "data": "the prompts' tokens",
}


def weights_digest(model: Root) -> str:
    """A digest of some entries of every parameter: other weights, in a model of the same form, are told by it."""
    digest = hashlib.sha256()
    for name, parameter in model._model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        if not parameter.is_meta:  # offloaded weights are not at hand
            flat = parameter.detach().reshape(-1)
            some = flat[:: max(len(flat) // _SAMPLES, 1)][:_SAMPLES].cpu().contiguous()
            digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def request_of(
    model: Root, modules: Mapping[str, Stored], *, tokens: str, prompts: int, data: str, shard_size: int
) -> Request:
    """What is asked of a model; its weights are there."""
    origin = model.origin(modules)
    return Request(
        origin.model,
        origin.revision,
        origin.kind,
        origin.fingerprint,
        weights_digest(model),
        tuple(content_hash(without_torch(graph)) for graph in model.edits),
        modules,
        tokens,
        prompts,
        data,
        shard_size,
    )
