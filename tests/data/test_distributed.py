"""Shards trained by several processes, or devices, come to what one process comes to."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from tests.data.distributed_worker import make_data

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="distributes with JAX")

WORKER = pathlib.Path(__file__).with_name("distributed_worker.py")


def run(workers, devices, folder, timeout=240):
    """Runs workers side by side, each on so many devices; the first that fails ends them all, and so does the clock."""
    # Without the float64 of these tests' own process: users train without it.
    env = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"} | {
        "PYTHONPATH": os.getcwd(),
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",  # the default of newer JAX alone
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    logs = [folder / f"worker{index}.log" for index in range(len(workers))]
    processes = []
    try:
        for arguments, log in zip(workers, logs, strict=True):
            with log.open("wb") as file:
                command = [sys.executable, str(WORKER), str(folder), *arguments]
                processes.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env))
        end = time.monotonic() + timeout
        while (codes := [p.poll() for p in processes]).count(None) and not any(codes) and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(code != 0 for code in codes):
        ends = ["was still running" if code is None else f"ended with {code}" for code in codes]
        said = [f"{log.stem} {end}:\n{log.read_text(errors='replace')}" for end, log in zip(ends, logs, strict=True)]
        pytest.fail("\n".join(said))


def load(folder, *names):
    return [dict(np.load(folder / f"{name}.npz")) for name in names]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """What one process comes to on one device, and on two."""
    folder = tmp_path_factory.mktemp("one_process")
    run([[]], devices=2, folder=folder)
    alone, devices = load(folder, "alone", "devices")
    assert (alone["devices"], devices["devices"]) == (1, 2)
    assert np.abs(alone["weights"] - alone["initial"]).max() > 0.1
    assert alone["losses"][-1] < 0.9 * alone["losses"][0]
    return alone, devices


def assert_same(results, expected):
    for name in ("initial", "weights", "losses", "errors", "evaluation", "predictions"):
        np.testing.assert_allclose(results[name], expected[name], rtol=0, atol=1e-5, err_msg=name)


def test_two_devices_train_as_one(one_process):
    alone, devices = one_process
    assert_same(devices, alone)


def test_two_processes_train_as_one(one_process, tmp_path):
    fillers = [[int((weight == 0).sum()) for *_, weight in make_data(2, shard)] for shard in (0, 1)]
    assert sorted(zip(*fillers, strict=True)) == [(0, 0), (0, 0), (0, 0), (0, 1), (3, 4)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    run([[address, "0"], [address, "1"]], devices=1, folder=tmp_path)
    first, second = load(tmp_path, "shard0", "shard1")
    assert first["devices"] == second["devices"] == 2
    assert_same(first, second)
    assert_same(first, one_process[0])
    assert_same(second, one_process[0])
