"""What the shards of a harvest hold, read with the safetensors library, against plain hooks on each prompt alone."""

import json

import pytest
import torch
from safetensors.torch import load_file

import loupe
from tests import tiny
from tests.harvest.by_hand import PROMPTS, alone, wrapped


def shards_of(folder):
    return [load_file(path) for path in sorted(folder.glob("*.safetensors"))]


def by_prompt(shards, path):
    """The entries of each prompt, in the order of its tokens."""
    found = {}
    for shard in shards:
        numbers, positions = shard["prompt_numbers"], shard["positions"]
        for number in numbers.unique().tolist():
            assert number not in found
            kept = numbers == number
            found[number] = shard[path][kept][positions[kept].argsort()]
    return [found[number] for number in range(len(found))]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba", "mixtral"])
def test_every_token_has_what_its_prompt_gives_alone_and_padding_has_nothing(family, tmp_path):
    block = tiny.BLOCKS[family]
    paths = [f"{block}.0", f"{block}.1"]
    loupe.harvest(wrapped(family), PROMPTS, layers=paths, out=tmp_path / "out", batch_size=3)
    shards, want = shards_of(tmp_path / "out"), alone(tiny.hf_model(family), paths)
    assert sum(len(shard["token_ids"]) for shard in shards) == sum(map(len, PROMPTS))
    for path in paths:
        for found, expected in zip(by_prompt(shards, path), want[path], strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for number, ids in enumerate(by_prompt(shards, "token_ids")):
        assert ids.tolist() == PROMPTS[number]


def test_values_are_stored_in_the_dtype_that_is_asked_for(tmp_path):
    loupe.harvest(wrapped(), PROMPTS, layers="transformer.h.*", out=tmp_path, dtype=torch.bfloat16)
    (shard,) = shards_of(tmp_path)
    want = alone(tiny.hf_model("gpt2"), ["transformer.h.2"])["transformer.h.2"]
    assert {value.dtype for name, value in shard.items() if "." in name} == {torch.bfloat16}
    for found, expected in zip(by_prompt([shard], "transformer.h.2"), want, strict=True):
        torch.testing.assert_close(found.float(), expected, atol=1e-2, rtol=1e-2)


def test_the_last_tokens_alone_are_kept_where_asked(tmp_path):
    loupe.harvest(wrapped(), PROMPTS, layers=["transformer.h.1", "lm_head"], out=tmp_path, tokens="last", batch_size=4)
    (shard,) = shards_of(tmp_path)
    want = alone(tiny.hf_model("gpt2"), ["transformer.h.1", "lm_head"])
    assert shard["lm_head"].shape == (len(PROMPTS), 64)
    for row, number in enumerate(shard["prompt_numbers"].tolist()):
        assert shard["positions"][row] == len(PROMPTS[number]) - 1
        for path in want:
            torch.testing.assert_close(shard[path][row], want[path][number][-1], atol=1e-5, rtol=1e-4)


def test_of_attention_the_first_of_what_it_returns_is_kept(tmp_path):
    loupe.harvest(wrapped(), PROMPTS, layers="transformer.h.1.attn", out=tmp_path, batch_size=1)
    want = alone(tiny.hf_model("gpt2"), ["transformer.h.1.attn"])["transformer.h.1.attn"]
    for found, expected in zip(by_prompt(shards_of(tmp_path), "transformer.h.1.attn"), want, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_what_the_model_overwrites_later_is_stored_as_it_passed(tmp_path):
    model = tiny.hf_model("gpt2")
    want = alone(model, ["transformer.h.0.mlp.c_fc"])["transformer.h.0.mlp.c_fc"]

    class InPlace(torch.nn.Module):
        def forward(self, x):
            return x.copy_(plain(x.clone()))

    mlp = model.transformer.h[0].mlp
    plain, mlp.act = mlp.act, InPlace()
    try:
        loupe.harvest(loupe.LanguageModel(model), PROMPTS, layers="transformer.h.0.mlp.c_fc", out=tmp_path)
    finally:
        mlp.act = plain
    for found, expected in zip(by_prompt(shards_of(tmp_path), "transformer.h.0.mlp.c_fc"), want, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_texts_are_tokenized_and_cut(tmp_path):
    model = loupe.LanguageModel("loupe/landmarks")
    texts = ["The Eiffel Tower is in", "Rome"]
    loupe.harvest(model, texts, layers="transformer.h.0", out=tmp_path, max_tokens=3)
    ids = by_prompt(shards_of(tmp_path), "token_ids")
    assert [each.tolist() for each in ids] == [model.tokenizer(text)["input_ids"][:3] for text in texts]


def test_shards_have_about_the_size_that_is_asked_for_and_the_index_says_what_they_hold(tmp_path):
    token = 32 * 4 + 12
    loupe.harvest(wrapped(), PROMPTS, layers="transformer.h.0", out=tmp_path, shard_size=10 * token)
    index = json.loads((tmp_path / "index.json").read_text())
    assert [shard["tokens"] for shard in index["shards"]] == [9, 9, 7, 9, 3]  # 9 | 9 | 7 | 5 + 4 | 2 + 1
    for shard in index["shards"]:
        path = tmp_path / shard["file"]
        assert shard["complete"]
        assert path.stat().st_size == shard["bytes"]
        assert len(load_file(path)["positions"]) == shard["tokens"]
    request = index["request"]
    assert (request["kind"], request["prompts"], request["tokens"]) == ("GPT2LMHeadModel", 7, "all")
    assert request["modules"] == [["transformer.h.0", "float32", [32]]]
    assert json.dumps(index, sort_keys=True, separators=(",", ":")) == (tmp_path / "index.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"index.json", *(shard["file"] for shard in index["shards"])}


def test_a_pass_ends_with_the_last_module_that_is_wanted(tmp_path):
    model, ran = tiny.hf_model("gpt2"), []
    hook = model.transformer.h[1].register_forward_hook(lambda *_: ran.append(1))
    try:
        loupe.harvest(wrapped(), PROMPTS, layers="transformer.h.0", out=tmp_path)
    finally:
        hook.remove()
    assert not ran


def test_edits_of_a_model_are_in_what_is_harvested(tmp_path):
    model = wrapped()
    with model.edit() as edited:
        edited.transformer.h[0].output[0][:] = 2
    loupe.harvest(edited, PROMPTS, layers="transformer.h.0", out=tmp_path)
    (shard,) = shards_of(tmp_path)
    assert bool((shard["transformer.h.0"] == 2).all())
    with pytest.raises(loupe.errors.InputError, match="differs in the model's edits"):
        loupe.harvest(model, PROMPTS, layers="transformer.h.0", out=tmp_path)


def test_the_reader_gives_tensors_that_lie_on_the_disk(tmp_path):
    paths = ["transformer.h.0", "transformer.h.2"]
    written = loupe.harvest(wrapped(), PROMPTS, layers=paths, out=tmp_path, shard_size=2000)
    found, files = loupe.harvested(tmp_path), shards_of(tmp_path)
    assert repr(found) == repr(written) == f"<harvest of 2 modules: 37 tokens in {len(files)} shards>"
    assert (found.modules, found.tokens, found.complete, len(found)) == (paths, 37, True, len(files))
    for shard, file in zip(found, files, strict=True):
        assert set(shard) == set(paths)
        assert torch.equal(shard[paths[1]], file[paths[1]])
        assert torch.equal(shard.token_ids, file["token_ids"])
        assert torch.equal(shard.prompt_numbers, file["prompt_numbers"])
        assert torch.equal(shard.positions, file["positions"])
    assert torch.equal(found.read(paths[0]), torch.cat([file[paths[0]] for file in files]))
    with pytest.raises(loupe.errors.UnknownModuleError, match=r"nothing of 'transformer\.h\.1'"):
        found[0]["transformer.h.1"]
