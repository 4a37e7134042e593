"""What `loupe validate` prints, and its exit status."""

from tests.cli.conftest import PROMPT, landmarks

MODEL = ("--model", "loupe/landmarks")


def test_a_graph_that_can_run_ends_with_status_0_and_an_estimate(loupe_command):
    done = loupe_command("validate", "steer.loupe", *MODEL, "-p", PROMPT, "--set", "strength=2")
    assert done.exit_code == 0
    assert done.stdout.startswith("the graph can run\nmemory: weights ")
    assert "constants 384 B" in done.stdout  # 96 numbers of 4 bytes


def test_a_graph_that_cannot_run_ends_with_status_1_and_says_why(loupe_command, tmp_path):
    model = landmarks()
    with model.trace(PROMPT) as tracer:
        model.transformer.h[5].output[0].norm().save("norm")
    path = tmp_path / "elsewhere.loupe"
    tracer.graph.rename_sites({"transformer.h.5": "transformer.h.50"}).save(path)
    done = loupe_command("validate", str(path), *MODEL)
    assert done.exit_code == 1
    assert "no module 'transformer.h.50' in the model" in done.stdout
    assert "did you mean 'transformer.h.5'" in done.stdout


def test_shapes_are_tried_with_the_values_that_are_set(loupe_command):
    done = loupe_command("validate", "steer.loupe", *MODEL, "--set", "strength=[1, 2]")
    assert done.exit_code == 1
    assert "fails: " in done.stdout


def test_the_blocks_of_a_session_are_tried_one_after_the_other(loupe_command):
    done = loupe_command("validate", "session.loupe", *MODEL)
    assert done.exit_code == 0
    assert "the graph can run" in done.stdout
