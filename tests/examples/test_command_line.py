"""The examples answer `--help`, mistakes in their arguments and Ctrl-C in one line, before they import Keras."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests.cases import numpy_alone

pytestmark = numpy_alone

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())
WRITE = [name for name in SCRIPTS if name != "audit_model.py"]


def run(folder, script, *arguments, missing=(), modules=(), **kwargs):
    """Runs a script in a folder, without the packages `missing`, and with modules of one's own before all others."""
    path = folder / "path"
    path.mkdir(exist_ok=True)
    # What Python runs first. A package whose entry is None is one that is not installed.
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in missing)
    (path / "sitecustomize.py").write_text(f"import sys\n{hidden}")
    for name, code in dict(modules).items():
        (path / f"{name}.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{EXAMPLES}"}
    command = [sys.executable, EXAMPLES / script, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, **kwargs)


HEAVY = ("keras", "keras_seqx", "numpy", "tensorflow", "jax", "torch")


def answered_at_once(folder, script, *arguments):
    """The last line of an answer with exit status 2, from a script that has not imported Keras."""
    result = run(folder, script, *needed(folder, script), *arguments, missing=HEAVY)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def needed(folder, script):
    """The arguments that a script has no default for."""
    if script != "classify_vowels.py":
        return []
    data = folder / "vowels.ts"
    data.write_text("@data\n")
    return ["--data", data]


def test_there_are_scripts():
    assert len(SCRIPTS) >= 7


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_neither_keras_nor_matplotlib(tmp_path, script):
    result = run(tmp_path, script, "--help", missing=(*HEAVY, "matplotlib"))
    assert result.returncode == 0, result.stderr
    assert "--quick" in result.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--seed", "x"], ["--seed", str(2**32)], ["--colour", "red"]])
def test_bad_arguments(tmp_path, script, arguments):
    line = answered_at_once(tmp_path, script, *arguments)
    assert line.startswith(f"{script}: error: ")
    assert arguments[0] in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("complete_series.py", ["--data", "none.csv"], "there is no file none.csv"),
        ("complete_series.py", ["--data", "none.xls"], "must end in .csv or .npz or .ts"),
        ("complete_series.py", ["--epochs", "0"], "must be a whole number of 1 or more, not '0'"),
        ("complete_series.py", ["--complete", "none.keras"], "there is no file none.keras"),
        ("complete_series.py", ["--time", "none"], "--header and --time need a CSV file: --data FILE.csv"),
        ("label_steps.py", ["--epochs", "1"], "must be a whole number of 2 or more, not '1'"),
        ("watch_videos.py", ["--epochs", "1.5"], "must be a whole number of 1 or more, not '1.5'"),
        ("classify_vowels.py", ["--folds", "1"], "must be a whole number of 2 or more, not '1'"),
        ("pronounce_words.py", ["--data", "nowhere"], f"there is no file {pathlib.Path('nowhere', 'train.txt')}"),
        ("pronounce_words.py", ["--say", "hello"], "there is no model in out: train one first, without --say"),
        ("longer_horizon.py", ["--units", "0"], "must be a whole number of 1 or more, not '0'"),
    ],
)
def test_arguments_of_one_script(tmp_path, script, arguments, words):
    assert answered_at_once(tmp_path, script, *arguments).endswith(words)


@pytest.mark.parametrize("script", WRITE)
@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_that_cannot_be_a_folder(tmp_path, script, out):
    (tmp_path / "file").write_text("in the way")
    line = answered_at_once(tmp_path, script, "--out", out)
    assert line.startswith(f"{script}: error: argument --out: cannot write to {pathlib.Path(out)}: ")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("quick", [[], ["--quick"]], ids=["full", "quick"])
@pytest.mark.parametrize("script", WRITE)
def test_out_where_a_folder_has_the_name_of_a_file(tmp_path, script, quick):
    for picture in ("vowels_confusion", pathlib.Path(script).stem):
        for ending in ("", "_quick", "_tiny"):
            (tmp_path / "out" / f"{picture}{ending}.png").mkdir(parents=True)
    assert "cannot write to out" in answered_at_once(tmp_path, script, *quick)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes to read-only folders")
@pytest.mark.parametrize("script", WRITE)
def test_out_that_is_read_only(tmp_path, script):
    (tmp_path / "locked").mkdir(mode=0o555)
    assert answered_at_once(tmp_path, script, "--out", "locked").endswith("cannot write to locked: Permission denied")


@pytest.mark.parametrize("script", WRITE)
def test_missing_matplotlib(tmp_path, script):
    result = run(tmp_path, script, *needed(tmp_path, script), missing=(*HEAVY, "matplotlib"))
    assert result.returncode == 2
    assert result.stderr == f'{script} needs matplotlib: pip install "keras_seqx[examples]"\n'


# A module that does what Ctrl-C does, and then nothing for a long time.
INTERRUPTED = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(300)\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c(tmp_path, script):
    """It comes while Keras is imported; the same handler serves training and drawing."""
    result = run(tmp_path, script, *needed(tmp_path, script), modules={"keras": INTERRUPTED})
    assert result.returncode == 130
    assert result.stderr == f"\n{script}: interrupted\n"


SCRIPT = """
import os, signal, sys, time
from command_line import Parser, run_again
parser = Parser("An example.", seed="nothing", files={"picture": "a.png", "model": "b.keras"})
parser.add_argument("--again", action="store_true")
args = parser.parse_args()
print(args.picture, args.model)
"""


def test_quick_runs_have_file_names_of_their_own(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    names = [run(tmp_path, tmp_path / "script.py", *quick).stdout.split() for quick in ([], ["--quick"])]
    assert names == [["out/a.png", "out/b.keras"], ["out/a_quick.png", "out/b_quick.keras"]]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("handler", ["signal.getsignal(signal.SIGINT)", "signal.SIG_DFL"], ids=["later", "at once"])
def test_ctrl_c_in_the_fresh_process(tmp_path, handler):
    """A terminal interrupts both processes. There is one line, also if the fresh one has only begun to start."""
    (tmp_path / "script.py").write_text(
        SCRIPT
        + "if not args.again: raise SystemExit(run_again('--again'))\n"
        + f"signal.signal(signal.SIGINT, {handler})\n"
        + "for process in (os.getppid(), os.getpid()): os.kill(process, signal.SIGINT)\n"
        + "time.sleep(300)\n"
    )
    result = run(tmp_path, tmp_path / "script.py")
    assert (result.returncode, result.stderr) == (130, "\nscript.py: interrupted\n")


def test_say_takes_the_model_of_a_full_run_before_that_of_a_quick_one(tmp_path):
    (tmp_path / "out").mkdir()
    stubs = {"keras": "raise SystemExit(__import__('__main__').args.model.name)"}
    for name in ("pronounce_words_tiny", "pronounce_words"):
        (tmp_path / "out" / f"{name}.keras").write_text("")
        assert run(tmp_path, "pronounce_words.py", "--say", modules=stubs).stderr == f"{name}.keras\n"
    assert (
        run(tmp_path, "pronounce_words.py", "--quick", "--say", modules=stubs).stderr == "pronounce_words_tiny.keras\n"
    )
