"""What `loupe harvest` writes, against plain hooks on the plain model."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from loupe.cli.app import app
from tests.cli.conftest import OTHER, PROMPT, landmarks
from tests.samples.plain import plain_run

LAYER = "transformer.h.3.mlp"


def command(*rest):
    return CliRunner().invoke(app, ["harvest", "loupe/landmarks", *map(str, rest)])


@pytest.fixture
def data(tmp_path):
    """The same two prompts as a text file, as JSON lines with texts and with ids, and as tensors."""
    landmarks().dispatch()
    ids = [landmarks().tokenizer(text)["input_ids"] for text in (PROMPT, OTHER)]
    longest = max(map(len, ids))
    (tmp_path / "texts.txt").write_text(f"{PROMPT}\n{OTHER}\n")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in (PROMPT, OTHER)))
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps({"input_ids": each}) + "\n" for each in ids))
    padded = {
        "input_ids": torch.tensor([[*each, *[1] * (longest + 2 - len(each))] for each in ids]),
        "attention_mask": torch.tensor([[*[1] * len(each), *[0] * (longest + 2 - len(each))] for each in ids]),
    }
    save_file(padded, tmp_path / "ids.safetensors")
    return tmp_path


@pytest.mark.parametrize("file", ["texts.txt", "texts.jsonl", "ids.jsonl", "ids.safetensors"])
def test_prompts_of_every_kind_of_file_give_what_plain_hooks_see(data, file):
    ran = command("--layers", "transformer.h.*.mlp", "-l", "lm_head", "--data", data / file, "--out", data / "out")
    assert ran.exit_code == 0, ran.stderr
    (path,) = (data / "out").glob("*.safetensors")
    shard = load_file(path)
    assert len(shard) == 12 + 1 + 3
    for number, text in enumerate((PROMPT, OTHER)):
        seen, _ = plain_run(landmarks(), text, [LAYER])
        torch.testing.assert_close(shard[LAYER][shard["prompt_numbers"] == number], seen[LAYER][0].detach())
    assert f"{len(shard['positions'])} tokens of 2 prompts in {data / 'out'}" in ran.stdout
    assert "lm_head     float32 [2422]" in ran.stdout


def test_options_say_how_much_is_kept_and_as_what(data):
    options = ("--dtype", "bfloat16", "--batch-size", 1, "--max-tokens", 2, "--tokens", "last")
    ran = command("-l", LAYER, "-d", data / "texts.txt", "-o", data / "out", *options)
    assert ran.exit_code == 0, ran.stderr
    (path,) = (data / "out").glob("*.safetensors")
    shard = load_file(path)
    assert (shard[LAYER].shape, shard[LAYER].dtype, shard["positions"].tolist()) == ((2, 96), torch.bfloat16, [1, 1])


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("none.txt", None, "no prompts can be read from .*No such file"),
        ("gap.txt", "one\n\ntwo\n", "line 2 of .* is empty"),
        ("bad.jsonl", '{"text": "one"}\nnone\n', "line 2 of .* is not JSON"),
        ("other.jsonl", '{"prompt": "one"}\n', "line 1 of .* has neither a text nor input_ids"),
        ("empty.jsonl", '{"text": ""}\n', "line 1 of .* has an empty prompt"),
        ("bad.safetensors", "nothing", "is no safetensors file"),
        ("empty.txt", "", "there are no prompts"),
    ],
)
def test_a_file_without_prompts_is_an_error_and_nothing_is_written(data, file, text, said):
    if text is not None:
        (data / file).write_text(text)
    ran = command("-l", LAYER, "-d", data / file, "-o", data / "out")
    assert ran.exit_code == 1
    assert "Traceback" not in ran.stderr
    assert re.search(said, ran.stderr)
    assert not (data / "out").exists()


def test_another_request_in_the_same_folder_is_refused(data):
    assert command("-l", LAYER, "-d", data / "texts.txt", "-o", data / "out").exit_code == 0
    ran = command("-l", LAYER, "-d", data / "texts.txt", "-o", data / "out", "--dtype", "float16")
    assert ran.exit_code == 1
    assert "float32 [96] there, float16 [96] here" in ran.stderr
