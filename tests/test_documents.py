"""What the documents show runs: docstring examples and the README's blocks."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import pytest

import keras_seqx

ROOT = pathlib.Path(__file__).parents[1]
MODULES = [info.name for info in pkgutil.walk_packages(keras_seqx.__path__, "keras_seqx.")]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name), verbose=False)
    assert failed == 0


def test_public_layers_have_examples():
    finder = doctest.DocTestFinder()
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name))]
    assert sum(len(test.examples) for test in found) >= 10


def test_readme_blocks(tmp_path, monkeypatch, capsys):
    """The blocks run one after the other, and print what their comments say."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.split("\n")[:-1] == re.findall(r"print\(.*  # (.*)", code)


def test_readme_commands_are_single_lines_that_name_what_is_there():
    commands = [c for c in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if ".venv" in c]
    assert len(commands) == 2
    for command in commands:
        assert command.count("\n") == 1
        assert command.startswith("python3 -m venv .venv && ")
    assert (ROOT / re.search(r"examples/\w+\.py", commands[0]).group()).exists()
    assert (ROOT / re.search(r"\]\((docs/.*?)\)", README).group(1)).exists()
