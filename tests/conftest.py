"""Chooses the backend and the Hypothesis profile before anything imports Keras."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
# Tests compile much and run little, one process for each core: XLA need not optimize, nor operations have threads.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
if os.environ["KERAS_BACKEND"] == "jax":
    # Gradients are checked in float64, which JAX has only where it is switched on at the start.
    os.environ["JAX_ENABLE_X64"] = "1"

import keras
import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), max_examples=10, derandomize=True)
settings.register_profile("few", parent=settings.get_profile("ci"), max_examples=3)
settings.register_profile("nightly", parent=settings.get_profile("dev"), max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Programs of JAX live as long as its caches: those of all tests together are more than a process can map."""
    yield
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Each test starts from the same seed, float32 and no leftovers of another's graph."""
    keras.utils.clear_session(free_memory=False)  # a collection takes longer than most tests
    keras.utils.set_random_seed(0)
    keras.config.set_floatx("float32")
    yield
    keras.config.set_dtype_policy("float32")
