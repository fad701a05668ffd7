"""The versions of Keras that the package is tested with."""

import pathlib
import subprocess
import sys
import tomllib
import warnings

import pytest

from keras_seqx._core import keras_versions

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("version", ["3.16.0", "3.16.0.dev2026120104", "3.17.1", "4.0.0rc1"])
def test_a_later_release_line_warns_once(version):
    with pytest.warns(UserWarning, match="keras_seqx is tested with Keras") as caught:
        keras_versions.warn_of_untested(version)
    assert len(caught) == 1
    assert version in str(caught[0].message)


@pytest.mark.parametrize("version", ["OLDEST", "NEWEST", "NIGHTLY"])
def test_a_tested_version_does_not_warn(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keras_versions.warn_of_untested(getattr(keras_versions, version))


def test_the_warning_comes_at_import():
    code = "import keras; keras.__version__ = '9.0.0'; import keras_seqx"
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
    assert "and this is Keras 9.0.0" in done.stderr


def test_the_project_file_and_ci_name_these_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    major, minor = map(int, keras_versions.NEWEST.split(".")[:2])
    (keras,) = [name for name in project["dependencies"] if name.startswith("keras")]
    assert keras.startswith(f"keras>={keras_versions.OLDEST},")
    assert keras.endswith(f",<{major}.{minor + 1}")
    assert "keras_versions import NIGHTLY" in (ROOT / ".ci" / "run").read_text()
