"""How a harvest goes on after it was killed, and what it refuses to go on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loupe
from loupe.errors import InputError
from tests import tiny
from tests.harvest.by_hand import PROMPTS, wrapped

ROOT = Path(__file__).resolve().parents[2]
PATHS = ["transformer.h.0", "transformer.h.1"]
SMALL = 1500  # bytes of a shard

# Harvests slowly, so that it can be killed on its way.
PROGRAM = """
import sys, time
import loupe
from tests.harvest.by_hand import PROMPTS, wrapped
model = wrapped()
def slowly(*_):
    time.sleep(0.05)
model._model.transformer.h[0].register_forward_hook(slowly)
loupe.harvest(model, PROMPTS, layers={paths!r}, out=sys.argv[1], shard_size={size}, batch_size=1)
"""


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def harvest(out, **changes):
    asked = {"layers": PATHS, "out": out, "shard_size": SMALL, "batch_size": 1, **changes}
    return loupe.harvest(wrapped(), asked.pop("prompts", PROMPTS), **asked)


def complete_shards(folder):
    try:
        return len(loupe.harvested(folder))
    except loupe.errors.LoadError:
        return 0


def batches_that_run(run):
    """How often the model is called with prompts; none of them has the token 0."""
    calls = []
    wte = tiny.hf_model("gpt2").transformer.wte
    hook = wte.register_forward_hook(lambda _, args, __: calls.append(1) if args[0].any() else None)
    try:
        run()
    finally:
        hook.remove()
    return len(calls)


def test_a_run_that_was_killed_goes_on_with_the_next_shard(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    shards = len(harvest(whole))
    assert shards == 6
    program = PROGRAM.format(paths=PATHS, size=SMALL)
    running = subprocess.Popen([sys.executable, "-c", program, str(killed)], cwd=ROOT)
    try:
        end = time.monotonic() + 240
        while complete_shards(killed) < 2:
            assert running.poll() is None
            assert time.monotonic() < end
            time.sleep(0.005)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
    before = complete_shards(killed)
    assert 2 <= before < shards
    assert not loupe.harvested(killed).complete
    kept = {name: (killed / name).stat().st_mtime_ns for name in os.listdir(killed) if name.startswith("shard")}
    calls = batches_that_run(lambda: harvest(killed))
    assert calls == shards - before + 1  # a shard has one prompt here, but for the last, which has two
    assert set(files_in(killed)) == set(files_in(whole))
    for name in files_in(whole):
        if name != "index.json":
            torch.testing.assert_close(load_file(killed / name), load_file(whole / name))
    for shard in json.loads((killed / "index.json").read_text())["shards"][:before]:
        assert (killed / shard["file"]).stat().st_mtime_ns == kept[shard["file"]]


def test_what_a_kill_leaves_half_written_is_removed_and_done_again(tmp_path):
    harvest(tmp_path)
    want = files_in(tmp_path)
    (tmp_path / "shard-00002.safetensors").unlink()
    (tmp_path / ".shard-00002.safetensors.part").write_bytes(b"half")
    (tmp_path / ".index.json.0123abcd.part").write_text("{")
    (tmp_path / "shard-00004.safetensors").write_bytes(b"cut off")
    assert batches_that_run(lambda: harvest(tmp_path)) == 2
    assert files_in(tmp_path) == want


def test_a_harvest_that_is_complete_runs_nothing(tmp_path):
    harvest(tmp_path)
    want = files_in(tmp_path)
    assert batches_that_run(lambda: harvest(tmp_path, batch_size=4)) == 0
    assert files_in(tmp_path) == want


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": PATHS[:1]}, "the modules: transformer.h.0, transformer.h.1 there, transformer.h.0 here"),
        ({"dtype": torch.float16}, r"what is kept of transformer.h.0: float32 \[32\] there, float16 \[32\] here"),
        ({"tokens": "last"}, "tokens: 'all' there, 'last' here"),
        ({"prompts": [*PROMPTS[:-1], [1, 2, 3, 4]]}, "the prompts' tokens"),
        ({"prompts": PROMPTS[:-1]}, "prompts: 7 there, 6 here"),
        ({"max_tokens": 8}, "the prompts' tokens"),
        ({"shard_size": 3000}, "shard size: 1500 there, 3000 here"),
    ],
)
def test_another_request_in_the_same_folder_is_refused_with_what_differs(tmp_path, changes, said):
    harvest(tmp_path)
    before = files_in(tmp_path)
    with pytest.raises(InputError, match=f"holds another harvest, which differs in .*{said}"):
        harvest(tmp_path, **changes)
    assert files_in(tmp_path) == before


def test_other_weights_of_the_same_form_are_another_request(tmp_path):
    harvest(tmp_path)
    weight = tiny.hf_model("gpt2").transformer.h[0].mlp.c_fc.weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight += 1
        with pytest.raises(InputError, match="differs in the model's weights"):
            harvest(tmp_path)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert batches_that_run(lambda: harvest(tmp_path)) == 0


def test_without_resume_a_folder_that_holds_a_harvest_is_refused(tmp_path):
    harvest(tmp_path, resume=False)
    with pytest.raises(InputError, match="holds this harvest already"):
        harvest(tmp_path, resume=False)


def test_shards_without_an_index_are_not_overwritten(tmp_path):
    (tmp_path / "shard-00000.safetensors").write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"has shards of a harvest, and no index\.json"):
        harvest(tmp_path)
    assert files_in(tmp_path) == {"shard-00000.safetensors": b"somebody's"}


def test_an_interrupt_leaves_complete_shards_and_nothing_half_done(tmp_path):
    calls = []

    def interrupt(_module, args, _output):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt

    hook = tiny.hf_model("gpt2").transformer.h[0].register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            harvest(tmp_path)
    finally:
        hook.remove()
    assert not list(tmp_path.glob(".*"))
    done = loupe.harvested(tmp_path)
    assert not done.complete
    assert harvest(tmp_path).complete
