"""Run graphs from files in a process of its own: `python -m tests.files.worker` takes one task a line, as JSON.

A task is `{"graph": FILE, "family": NAME, "inputs": FILE, "results": FILE}`. The inputs are a list of lists, and the
results a list of dicts, one for each block; both are written with torch.save. The answer is a line, `done` or an error.
"""

import json
import os
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

import torch

import loupe
from tests.properties.places import envoy_of

ROOT = Path(__file__).resolve().parents[2]


class Elsewhere:
    """Another process, which has never seen the program that a graph was recorded from."""

    def __init__(self, folder):
        self.folder, self.tasks = folder, 0
        paths = os.pathsep.join(["src", str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.files.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def run(self, graph, family, *inputs):
        """Save a graph (or a session's graphs), and give what comes of running it there: a dict for each block."""
        self.tasks += 1
        names = {name: str(self.folder / f"{self.tasks}.{name}") for name in ("graph", "inputs", "results")}
        graph.save(names["graph"])
        torch.save(list(inputs), names["inputs"])
        self.process.stdin.write(json.dumps({**names, "family": family}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer == "done", json.loads(answer or '"the process has ended"')
        return torch.load(names["results"])

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)


def bare(results):
    """Results as plain containers of tensors."""
    if isinstance(results, dict):
        return {name: bare(value) for name, value in results.items()}
    if isinstance(results, (list, tuple)):
        return [bare(value) for value in results]
    return results.detach() if isinstance(results, torch.Tensor) else results


def do(task):
    graph, inputs = loupe.load(task["graph"]), torch.load(task["inputs"])
    found = envoy_of(task["family"]).run(graph, *inputs)
    torch.save(bare(found if isinstance(found, list) else [found]), task["results"])


def main():
    answers, sys.stdout = sys.stdout, sys.stderr
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            do(json.loads(line))
            answers.write("done\n")
        except Exception:
            answers.write(json.dumps(traceback.format_exc()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
