"""The package keeps its structure: which folder imports which, and what is public."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import keras_seqx

ROOT = pathlib.Path(keras_seqx.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
BACKENDS = {"tensorflow", "jax", "torch"}

# A folder may import the folders listed here, and itself. The order has no circle and no arrow upwards.
MAY_IMPORT = {
    "_core": set(),
    "_attention": {"_core"},
    "generation": {"_core"},
    "_decoder": {"_core", "generation"},
    "layers": {"_core", "_attention", "_decoder", "generation"},
    "audit": {"_core"},  # it knows data sets by `_core.probe`, because they use it
    "data": {"_core", "audit"},
    "callbacks": {"_core", "layers", "data", "audit"},
    "metrics": {"_core", "layers", "data"},
    "transfer": {"_core", "layers", "data"},
    "testing": {"_core", "layers", "data"},
}


def room(path):
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield node, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            yield node, [f"{node.module}.{alias.name}" for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports(path):
    tree = ast.parse(path.read_text())
    top_level = set(tree.body)
    for node, names in imports(tree):
        for name in names:
            assert not name.startswith("keras.src"), f"{path}:{node.lineno} imports keras.src"
            package = name.split(".")[0]
            late = BACKENDS if path.name == "strategies.py" else BACKENDS | {"hypothesis"}
            assert node not in top_level or package not in late, f"{path}:{node.lineno}: {name}"
            if package == "keras_seqx" and path != ROOT / "__init__.py":
                target = name.split(".")[1]
                assert target in MAY_IMPORT[room(path)] | {room(path)}, f"{path}:{node.lineno}: {name}"


def test_everything_public_is_listed_and_documented():
    for name in keras_seqx.__all__:
        assert getattr(keras_seqx, name) is not None
    for room, names, more in (
        (
            keras_seqx.layers,
            (
                "AttentionCell",
                "AutoregressiveDecoder",
                "KeepMask",
                "MaskedTimeDistributed",
                "RepeatToLength",
                "SequenceMask",
                "TokenGenerator",
                "TransformerDecoderCell",
            ),
            ("Call arguments:", "Returns:"),
        ),
        (keras_seqx.data, ("LengthBucketing", "RaggedArray"), ()),
        (
            keras_seqx.callbacks,
            ("LengthCurriculum", "PaddingMonitor", "SequencePlot", "TeacherForcingSchedule"),
            ("Returns:",),
        ),
        (keras_seqx.metrics, ("EditDistance", "SequenceAccuracy"), ("Call arguments:", "Returns:")),
        (keras_seqx.generation, ("BeamSearch", "Categorical", "Gaussian", "Sampling"), ("Returns:",)),
        (keras_seqx.transfer, ("change_timesteps", "transfer_weights"), ("Returns:",)),
    ):
        for name in names:
            assert getattr(keras_seqx, name) is getattr(room, name)
            for section in ("Args:", "Raises:", "Example:", *more):
                assert section in getattr(keras_seqx, name).__doc__


def test_import_brings_no_other_backend():
    backend = os.environ["KERAS_BACKEND"]
    code = "import sys, keras_seqx; print(*[m for m in ('tensorflow', 'jax', 'torch') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    alone = "import sys, keras; print(*[m for m in ('tensorflow', 'jax', 'torch') if m in sys.modules])"
    with_keras = subprocess.run(
        [sys.executable, "-c", alone], check=True, capture_output=True, text=True
    ).stdout.split()
    assert loaded == with_keras
    assert backend in loaded


def test_private_attributes_of_others_are_in_one_file():
    """Whatever the package does not define itself is Keras' or a backend's, and may change with a release."""
    trees = {path: ast.parse(path.read_text()) for path in FILES}
    own = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
    for path, tree in trees.items():
        if path.name == "keras_internals.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                name = node.attr
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"getattr", "hasattr", "setattr"}:
                name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            else:
                continue
            private = name.startswith("_") and not name.startswith("__")
            assert not private or name in own, f"{path}:{node.lineno}: {name}"
