"""Which versions of Keras the package is tested with."""

import warnings

import keras

# The oldest and the newest release, and a nightly build of the next one. `pyproject.toml` and CI use the same.
OLDEST = "3.12.4"
NEWEST = "3.15.1"
NIGHTLY = "3.16.0.dev2026102704"


def warn_of_untested(version: str = keras.__version__) -> None:
    """Warns if this Keras is of a later release line than those tested."""
    if _release_line(version) > _release_line(NEWEST) and version != NIGHTLY:
        warnings.warn(
            f"keras_seqx is tested with Keras {OLDEST} to {NEWEST}, and this is Keras {version}. A new Keras may "
            f"handle masks differently. Install a tested version, `pip install keras=={NEWEST}`, or check your model: "
            "`keras_seqx.audit_masking(model, x).raise_on_leak()`.",
            stacklevel=3,
        )


def _release_line(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))
