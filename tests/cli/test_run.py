"""What `loupe run` prints and writes, against plain hooks on the plain model."""

import subprocess
import sys

import pytest
import safetensors.torch
import torch

from tests.cli.conftest import DIRECTION, OTHER, PROMPT, landmarks
from tests.samples.plain import close, plain_run

MODEL = ("--model", "loupe/landmarks")


def steered(prompt: str, strength: float) -> torch.Tensor:
    """The logits of the plain model with a direction added at block 5."""

    def change(passing):
        passing[:, -1] += strength * DIRECTION
        return passing

    return plain_run(landmarks(), prompt, change={"transformer.h.5": change})[1].detach()


@pytest.fixture(autouse=True)
def _loaded():
    landmarks().dispatch()


@pytest.mark.parametrize(("settings", "strength"), [((), 1.0), (("--set", "strength=-30"), -30.0)])
def test_saved_tensors_are_those_of_plain_hooks(loupe_command, tmp_path, settings, strength):
    out = tmp_path / "saved.safetensors"
    ran = loupe_command("run", "steer.loupe", *MODEL, "--prompt", OTHER, *settings, "--out", str(out))
    assert ran.exit_code == 0, ran.stderr
    want = steered(OTHER, strength)
    saved = safetensors.torch.load_file(out)
    assert list(saved) == ["logits"]
    assert close(saved["logits"], want)
    assert "logits      f32[1, 5, 2422]" in ran.stdout
    best = landmarks().tokenizer.decode(want[0, -1].argmax())
    assert f"next: {best!r} {want[0, -1].max():.4g}" in ran.stdout
    assert f"1 tensor written to {out}" in ran.stdout


def test_several_prompts_of_a_block_without_invokes_are_one_batch(loupe_command, tmp_path):
    out = tmp_path / "saved.safetensors"
    ran = loupe_command("run", "steer.loupe", *MODEL, "-p", OTHER, "-p", PROMPT, "-o", str(out))
    assert ran.exit_code == 0, ran.stderr
    logits = safetensors.torch.load_file(out)["logits"]
    for row, prompt in enumerate((OTHER, PROMPT)):
        assert close(logits[row, -1], steered(prompt, 1.0)[0, -1])
    assert ran.stdout.count("next: ") == 2


@pytest.mark.parametrize(("file", "name"), [("two.loupe", "logits"), ("session.loupe", "block1.logits")])
def test_prompts_go_to_invokes_and_to_the_blocks_of_a_session_in_order(loupe_command, tmp_path, file, name):
    out = tmp_path / "saved.safetensors"
    ran = loupe_command("run", file, *MODEL, "-p", "The Kremlin is in", "-p", OTHER, "-o", str(out))
    assert ran.exit_code == 0, ran.stderr
    seen, _ = plain_run(landmarks(), "The Kremlin is in", ["transformer.h.8"])

    def change(passing):
        passing[:, -1] = seen["transformer.h.8"][:, -1]
        return passing

    _, want = plain_run(landmarks(), OTHER, change={"transformer.h.8": change})
    assert close(safetensors.torch.load_file(out)[name][:, -1], want[:, -1])


def test_a_generation_prints_its_text_and_takes_options(loupe_command, tmp_path):
    out = tmp_path / "saved.safetensors"
    ran = loupe_command("run", "generation.loupe", *MODEL, "-p", OTHER, "--set", "max_new_tokens=2", "-o", str(out))
    assert ran.exit_code == 0, ran.stderr
    ids = landmarks().tokenizer(OTHER, return_tensors="pt")["input_ids"]
    want = landmarks()._model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)
    saved = safetensors.torch.load_file(out)
    assert saved["ids"].tolist() == want.tolist()
    assert [name.split(".")[-1] for name in sorted(saved)] == ["ids", "0", "1"]
    assert repr(landmarks().tokenizer.decode(want[0])) in ran.stdout


def test_a_cache_is_written_under_the_names_of_its_modules(loupe_command, tmp_path):
    out = tmp_path / "saved.safetensors"
    assert loupe_command("run", "cache.loupe", *MODEL, "-p", PROMPT, "-o", str(out)).exit_code == 0
    saved = safetensors.torch.load_file(out)
    seen, _ = plain_run(landmarks(), PROMPT, ["transformer.h.3.mlp"])
    assert close(saved["mlps.transformer.h.3.mlp.output"], seen["transformer.h.3.mlp"])
    assert len(saved) == 13


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ((), "the run takes 1 prompt; give one with --prompt TEXT"),
        (("-p", "x", "--set", "strenth=1"), "did you mean 'strength'?"),
        (("-p", "x", "--set", "strength"), "write NAME=VALUE"),
        (("-p", "x", "--set", "max_new_tokens=3"), "the graph leaves no 'max_new_tokens' open"),
        (("-p", "x", "--set", "strength=1", "--set", "strength=2"), "'strength' is set twice"),
    ],
)
def test_a_command_that_is_put_wrongly_ends_with_status_2(loupe_command, monkeypatch, rest, said):
    monkeypatch.setenv("COLUMNS", "300")
    ran = loupe_command("run", "steer.loupe", *MODEL, *rest)
    assert ran.exit_code == 2
    assert said in ran.stderr


def test_an_error_of_loupe_is_its_text_and_status_1(loupe_command, tmp_path):
    ran = loupe_command("run", "two.loupe", *MODEL, "-p", "x")
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert "the graph has 2 prompts, and is given 1" in ran.stderr
    assert "Traceback" not in ran.stderr
    ran = loupe_command("run", "steer.loupe", *MODEL, "-p", "x", "-o", str(tmp_path / "none" / "x.safetensors"))
    assert ran.exit_code == 1
    assert "cannot be written: No such file or directory" in ran.stderr


def test_an_interrupt_ends_with_status_130(loupe_command, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("loupe.envoy.model.Root.run", interrupted)
    ran = loupe_command("run", "steer.loupe", *MODEL, "-p", "x")
    assert (ran.exit_code, ran.stdout) == (130, "")


def test_a_warning_is_a_sentence(loupe_command, monkeypatch):
    monkeypatch.setattr("loupe.models.language.LanguageModel.identity", ("other/model", None))
    ran = loupe_command("run", "steer.loupe", *MODEL, "-p", "x")
    assert ran.exit_code == 0, ran.stderr
    assert "warning: the graph was written for 'loupe/landmarks', and runs on 'other/model'\n" in ran.stderr


def test_the_command_runs_in_a_process_of_its_own(files, tmp_path):
    out = tmp_path / "saved.safetensors"
    command = [sys.executable, "-m", "loupe", "run", str(files / "steer.loupe"), *MODEL, "-p", OTHER, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("logits      f32[1, 5, 2422]")
    assert close(safetensors.torch.load_file(out)["logits"], steered(OTHER, 1.0))
