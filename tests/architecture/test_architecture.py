"""Hold what is true of loupe as a package: what importing it loads and changes, and that its tables match torch."""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import grimp
import pytest
import torch

from loupe.errors import GraphError
from loupe.graph.opset import OPSET
from loupe.ops.table import function_of

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "loupe").rglob("*.py"))
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "matplotlib", "safetensors", "accelerate")
written_for_this_torch = pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="the table of operations is that of torch 2.13"
)

WALK = """
import importlib, pkgutil, sys
def import_all(name):
    package = importlib.import_module(name)
    found = [each.name for each in pkgutil.walk_packages(package.__path__, name + ".")]
    for each in found:
        importlib.import_module(each)
    return found
"""


def run_python(program: str) -> str:
    """What a program prints in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loupe_loads_no_library():
    loaded = run_python(f"import sys, loupe; dir(loupe); print([n for n in {LIBRARIES} if n in sys.modules])")
    assert loaded.strip() == "[]"


def test_the_graph_floor_loads_no_library():
    program = f"{WALK}\nfound = import_all('loupe.graph')\nprint(found, [n for n in {LIBRARIES} if n in sys.modules])"
    names, loaded = run_python(program).strip().removesuffix("]").rsplit("[", 1)
    assert "'loupe.graph.passes'" in names
    assert loaded == ""


def test_every_name_of_the_facade_can_be_had():
    run_python("import loupe\nfor name in loupe.__all__: getattr(loupe, name)")


def test_importing_all_of_loupe_changes_nothing_outside_it():
    program = f"""{WALK}
import torch, torch.utils._pytree, torch.overrides, numpy
from tests.architecture.surroundings import changes, surroundings
before = surroundings()
found = import_all('loupe')
print(len(found), changes(before, surroundings()))
"""
    count, changed = run_python(program).strip().split(" ", 1)
    assert int(count) >= len(SOURCES) - 1
    assert changed == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_file_opens_with_a_sentence(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "a file opens with a docstring that says what it is for"
    first = docstring.split("\n\n")[0].split("\n├")[0]
    assert first.strip().endswith(".")


def test_the_facade_is_for_users_alone():
    graph = grimp.build_graph("loupe", exclude_type_checking_imports=True, cache_dir=None)
    assert graph.find_modules_that_directly_import("loupe") == set()


def run_script(name: str) -> str:
    """What one of the scripts prints."""
    return run_python(
        f"import runpy, sys; sys.path.insert(0, 'scripts'); runpy.run_path('scripts/{name}', run_name='__main__')"
    )


@written_for_this_torch
@pytest.mark.skipif(not version("transformers").startswith("5.23."), reason="fields are those of transformers 5.23")
def test_the_table_of_operations_is_what_its_script_prints():
    table = ROOT / "src" / "loupe" / "graph" / "opset_table.py"
    assert run_script("list_ops.py") == table.read_text(encoding="utf-8")


def test_the_page_of_operations_is_what_its_script_prints():
    assert run_script("describe_ops.py") == (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


@written_for_this_torch
def test_every_operation_of_the_opset_is_a_function_of_torch_or_python():
    unresolved = []
    for name in OPSET:
        try:
            function = function_of(name)
        except GraphError as error:
            unresolved.append(str(error))
        else:
            assert callable(function), name
    assert unresolved == []
