"""The command line that the examples share, with the standard library alone.

Importing Keras takes seconds. Each example therefore reads its arguments first, so that `--help` and a mistake in the
arguments are answered at once, and imports Keras after that.
"""

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser with `--seed` and `--quick`, and with `--out` for an example that writes files.

    Args:
        description: the docstring of the example.
        seed: what the seed decides, for `--help`.
        files: what the example writes to the folder of `--out`, such as `{"picture": "waves.png"}`. The parsed
            arguments hold the path of each, here `args.picture`.
        quick: the word that `--quick` adds to each file name, so that a quick run replaces no file of a full run.
        needs: packages that must be installed, which the extra `examples` installs.
    """

    def __init__(
        self,
        description: str | None,
        seed: str,
        files: dict[str, str] | None = None,
        quick: str = "quick",
        needs: tuple[str, ...] = (),
    ):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.seed, self.files, self.quick, self.needs = seed, files or {}, quick, needs

    def parse_args(self, *args: Any, unless: str = "", **kwargs: Any) -> Any:
        """Returns the arguments; ends with one line and exit status 2 if the run would fail for them later.

        With the argument named `unless`, the example writes no files, and `--out` need not be writable.
        """
        self.add_common_arguments()
        arguments = super().parse_args(*args, **kwargs)
        end_in_one_line(self.prog)
        for package in self.needs:
            if importlib.util.find_spec(package) is None:
                self.exit(2, f'{self.prog} needs {package}: pip install "keras_seqx[examples]"\n')
        for name, file in self.files.items():
            path = arguments.out / file
            setattr(arguments, name, path.with_stem(f"{path.stem}_{self.quick}") if arguments.quick else path)
        if self.files and getattr(arguments, unless, None) is None:
            self.check_writable(arguments.out, [getattr(arguments, name) for name in self.files])
        os.environ["MPLBACKEND"] = "Agg"  # pictures are written to files, and need no screen
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        return arguments

    def add_common_arguments(self) -> None:
        """Adds the arguments of all examples, which `--help` lists after those of the example."""
        if self.files:
            what = f"folder to write to: {', '.join(self.files.values())} (default: out)"
            self.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help=what)
        what = f"seed of {self.seed} (default: 0)"
        self.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=0, metavar="N", help=what)
        what = "a tiny run from end to end, to see that it works"
        what += f"; '_{self.quick}' is added to the names of its files" if self.files else ""
        self.add_argument("--quick", action="store_true", help=what)

    def check_writable(self, folder: Path, files: list[Path]) -> None:
        """Makes the folder if there is none; ends with an error if one of the files could not be written to it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            for file in files:
                if file.exists():
                    file.open("ab").close()
        except OSError as error:
            # A temporary file has a name that says nothing to the reader.
            place = error.filename if error.filename in map(str, files) else folder
            self.error(f"argument --out: cannot write to {place}: {error.strerror}")


def end_in_one_line(program: str) -> None:
    """Makes Ctrl-C end the program with one line and exit status 130, whatever it is doing."""
    signal.signal(signal.SIGINT, lambda *_: end(program))


def end(program: str) -> NoReturn:
    # Not an exception: a backend that calls Python could swallow it, or turn it into another one. `os.write` is safe
    # even if the signal came in the middle of a `print`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one line, however often Ctrl-C is pressed
    os.write(2, f"\n{program}: interrupted\n".encode())
    os._exit(130)


def run_again(*arguments: str) -> int:
    """Runs this script in a fresh process with more arguments; returns its exit status."""
    processes: list[subprocess.Popen] = []

    def pass_on(*_: Any) -> None:
        for process in processes:
            process.send_signal(signal.SIGINT)

    # Ctrl-C ends the fresh process, which prints the one line. This one waits for it.
    signal.signal(signal.SIGINT, pass_on)
    processes.append(subprocess.Popen([sys.executable, *sys.argv, *arguments]))
    status = processes[0].wait()
    if status == -signal.SIGINT:  # it came before the fresh process could print a line
        end(Path(sys.argv[0]).name)
    return status


# --- Types of arguments


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Returns the type of an argument that is a whole number in a range."""
    span = f"of {least} or more" if most is None else f"from {least} to {most}"

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"must be a whole number {span}, not {text!r}")
        return number

    return convert


def existing_file(*endings: str) -> Callable[[str], Path]:
    """Returns the type of an argument that names a file with one of the endings."""

    def convert(text: str) -> Path:
        path = Path(text)
        if endings and path.suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"{path} must end in {' or '.join(endings)}")
        if not path.is_file():
            raise argparse.ArgumentTypeError(f"there is no file {path}")
        return path

    return convert


def existing_folder(*files: str) -> Callable[[str], Path]:
    """Returns the type of an argument that names a folder with all of the files in it."""

    def convert(text: str) -> Path:
        for file in files:
            if not (Path(text) / file).is_file():
                raise argparse.ArgumentTypeError(f"there is no file {Path(text) / file}")
        return Path(text)

    return convert
