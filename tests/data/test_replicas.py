"""Two replicas train to the weights of one, by every way that a backend has to distribute training."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.cases import BACKEND
from tests.data.replicas import CASES, expected

WORKER = pathlib.Path(__file__).with_name("replicas_worker.py")
WAYS = {
    "tensorflow": {"MirroredStrategy": 1, "MultiWorkerMirroredStrategy": 2},
    "jax": {"DataParallel": 1, "jax.distributed": 2},
    "torch": {"DistributedDataParallel": 2},
}[BACKEND]


def free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]
    for opened in sockets:
        opened.close()
    return addresses


def run(processes, folder, timeout=240):
    """Runs the workers side by side, and returns what each saved; the first that fails ends them all."""
    env = {name: value for name, value in os.environ.items() if name != "JAX_ENABLE_X64"} | {
        "PYTHONPATH": os.getcwd(),
        "KERAS_BACKEND": BACKEND,
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={3 - processes}",
        "GRPC_ENABLE_FORK_SUPPORT": "0",
    }
    addresses = ",".join(free_addresses(2)) if BACKEND == "tensorflow" else free_addresses(1)[0]
    workers = [[]] if processes == 1 else [[addresses, "0"], [addresses, "1"]]
    logs, started = [folder / f"worker{index}.log" for index in range(processes)], []
    try:
        for arguments, log in zip(workers, logs, strict=True):
            with log.open("wb") as file:
                command = [sys.executable, str(WORKER), str(folder), *arguments]
                started.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env))
        end = time.monotonic() + timeout
        while (codes := [p.poll() for p in started]).count(None) and not any(codes) and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        for process in started:
            process.kill()
            process.wait()
    if any(code != 0 for code in codes):
        pytest.fail(
            "\n".join(
                f"{log.stem}, {code}:\n{log.read_text(errors='replace')}" for log, code in zip(logs, codes, strict=True)
            )
        )
    return [dict(np.load(folder / f"replica{index}.npz")) for index in range(processes)]


@pytest.mark.parametrize("way", WAYS)
def test_two_replicas_train_to_the_weights_of_one(way, tmp_path):
    for trained in run(WAYS[way], tmp_path):
        assert len(trained) >= 5
        for name, weights in trained.items():
            np.testing.assert_allclose(weights, expected(CASES[name]), rtol=0, atol=1e-6, err_msg=name)
