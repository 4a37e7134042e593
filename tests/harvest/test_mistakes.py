"""What a harvest says where it cannot be done, before anything is written."""

import resource

import pytest
import torch
from torch import nn

import loupe
from loupe.errors import InputError, LoadError, NotReachedError, UnknownModuleError
from tests import tiny
from tests.harvest.by_hand import PROMPTS, wrapped


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"layers": "transformer.g.*"}, UnknownModuleError, r"no module 'transformer\.g\.\*'.*\n.*\n.*did you mean"),
        ({"layers": "transformer.h.*.attn.attn_dropout"}, InputError, r"has no axes \[prompts, tokens\]"),
        ({"layers": None}, InputError, "the model itself cannot be harvested"),
        ({"prompts": [[1, 2], []]}, InputError, "prompt 1 is empty: it has no tokens"),
        ({"prompts": [[1, 2], [3] * 49]}, InputError, r"prompt 1: the prompt has 49 tokens.*positions for 48"),
        ({"prompts": [[1, 2], [3, 64]]}, InputError, "prompt 1: the token id 64 is not in the model's vocabulary"),
        ({"prompts": [[1, -2], [3, 4]]}, InputError, "prompt 0: the token id -2 is not in the model's vocabulary"),
        ({"prompts": [[1], [0.5]]}, InputError, "prompt 1 is of a form that is not understood"),
        ({"prompts": ["a text"]}, InputError, "the model has no tokenizer"),
        ({"prompts": []}, InputError, "there are no prompts"),
        ({"prompts": "a text"}, InputError, "one prompt is given, and not a list"),
        ({"tokens": "first"}, InputError, "tokens='first' is not known"),
        ({"batch_size": 0}, InputError, "batch_size=0 leaves nothing to do"),
        ({"dtype": torch.complex64}, InputError, "complex64 cannot be stored"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(tmp_path, changes, kind, said):
    asked = {"layers": "transformer.h.*", "out": tmp_path / "out", **changes}
    with pytest.raises(kind, match=rf"(?s){said}") as caught:
        loupe.harvest(wrapped(), asked.pop("prompts", PROMPTS), **asked)
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_module_that_does_not_run_is_named(tmp_path):
    model = tiny.hf_model("gpt2")
    model.transformer.h[0].spare = nn.Linear(2, 2)
    try:
        with pytest.raises(NotReachedError, match=r"transformer\.h\.0\.spare\.output did not run"):
            loupe.harvest(loupe.LanguageModel(model), PROMPTS, layers="transformer.h.0.spare", out=tmp_path / "out")
    finally:
        del model.transformer.h[0].spare
    assert not (tmp_path / "out").exists()


def test_a_model_without_tokens_is_refused(tmp_path):
    with pytest.raises(InputError, match="Model takes no prompts of tokens"):
        loupe.harvest(loupe.Model(tiny.stack()), [[1]], layers="layers.0", out=tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadError, match=r"cannot be written to .*Not a directory") as caught:
        loupe.harvest(wrapped(), PROMPTS, layers="transformer.h.0", out=tmp_path / "file" / "out")
    assert "make room" in caught.value.remedy


def test_a_disk_that_is_full_ends_the_harvest_and_the_next_call_goes_on(tmp_path):
    loupe.harvest(wrapped(), PROMPTS, layers="transformer.h.*", out=tmp_path / "whole", shard_size=6000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))  # a file cannot grow beyond: like a disk that is full
    try:
        with pytest.raises(LoadError, match=r"cannot be written to .*File too large"):
            loupe.harvest(wrapped(), PROMPTS, layers="transformer.h.*", out=tmp_path / "out", shard_size=6000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.json"]
    assert not loupe.harvested(tmp_path / "out").complete
    assert loupe.harvest(wrapped(), PROMPTS, layers="transformer.h.*", out=tmp_path / "out", shard_size=6000).complete
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("not json", "is not JSON"),
        ("[]", "is no index of a harvest"),
        ('{"harvest": 1, "request": {}, "shards": []}', "is no index of a harvest"),
        ('{"harvest": 9}', "is of version 9, and this loupe reads 1"),
    ],
)
def test_a_folder_without_a_harvest_cannot_be_read(tmp_path, text, said):
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with pytest.raises(LoadError, match=said):
        loupe.harvested(tmp_path)
