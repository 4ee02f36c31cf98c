"""Two processes on half the batch each follow the trajectory of one process on all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lse_interp.models.fingerprint import fingerprint

from .conftest import (
    DECAY,
    LR,
    MAX_NORM,
    NEURONS,
    TOLERANCE,
    Trajectory,
    assert_only_chosen_changed,
    batches,
    reference,
    tiny,
    weights_of,
)

WORKER = Path(__file__).with_name("distributed_worker.py")
# `llama_odd` has a width that two processes do not share evenly; `gpt2` has Conv1D, which stores
# neurons along the other axis, and tied embeddings.
# Family, strategy, engine, and whether gradients are reduced once per step.
CASES = [
    (family, strategy, engine, deferred)
    for family, deferred in (("llama_odd", True), ("gpt2", False))
    for strategy in ("ddp", "by hand", "parts")
    for engine in ("masked", "compact")
]
CASES_OF_FOUR = [("llama_odd", "replicas", engine, False) for engine in ("masked", "compact")]
N_STEPS = 8


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Return per process: case -> trajectory, fingerprint, bytes of weights held."""
    return _results(tmp_path_factory.mktemp("two"), CASES, n_processes=2)


@pytest.fixture(scope="module")
def four_processes(tmp_path_factory):
    return _results(tmp_path_factory.mktemp("four"), CASES_OF_FOUR, n_processes=4)


def _results(folder, cases, *, n_processes):
    for family in {case[0] for case in cases}:
        tiny(family).hf.save_pretrained(folder / family)
    job = {
        "cases": cases,
        "neurons": NEURONS["above"],
        # Four processes need four sequences in a batch.
        "batches": batches()[:N_STEPS].view(N_STEPS, 4 // n_processes, n_processes, -1),
        "lr": LR,
        "decay": DECAY,
        "max_norm": MAX_NORM,
    }
    torch.save(job, folder / "job.pt")
    _run(folder, n_processes)
    return [torch.load(folder / f"results{rank}.pt") for rank in range(n_processes)]


def _run(folder, n_processes):
    logs = [(folder / f"log{rank}.txt").open("w+") for rank in range(n_processes)]
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, folder, str(rank), str(n_processes)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
        texts = []
        for log in logs:
            log.seek(0)
            texts.append(log.read())
            log.close()
    assert codes == [0] * n_processes, "\n\n".join(texts)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_two_processes_follow_the_trajectory_of_one(two_processes, case):
    _same_trajectory(two_processes, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES_OF_FOUR, ids=lambda case: case[2])
def test_replicas_in_parts_follow_the_trajectory_of_one(four_processes, case):
    _same_trajectory(four_processes, case)
    # Two processes share a model, whose width of 25 does not halve.
    held = [result[case]["held"] for result in four_processes]
    assert held[0] == held[2] > held[1] == held[3]


def _same_trajectory(results, case):
    family = case[0]
    found = [Trajectory(**result[case]["trajectory"]) for result in results]
    gaps = [found[0].gap(other) for other in found[1:]]
    assert max(gaps) == 0, "all processes should hold the same model"
    assert found[0].gap(reference(family, n_steps=N_STEPS)) < TOLERANCE
    assert min(found[0].norms) > MAX_NORM
    hf = tiny(family).hf
    assert_only_chosen_changed(weights_of(hf), found[0].weights, family, NEURONS["above"], hf)


@pytest.mark.parametrize("family", ["llama_odd", "gpt2"])
def test_a_model_in_parts_is_the_same_model_in_less_memory(two_processes, family):
    hf = tiny(family).hf
    hashed = {
        result[case]["fingerprint"]
        for result in two_processes
        for case in CASES
        if case[0] == family
    }
    assert hashed == {fingerprint(hf)}
    prefix = {"llama_odd": "model.layers.", "gpt2": "transformer.h."}[family]
    sizes = {name: (len(w), w.nbytes) for name, w in hf.named_parameters()}
    for rank, result in enumerate(two_processes):
        # Of n rows, the first process holds the first ceil(n / 2).
        expected = sum(
            n_bytes // n * ((n + 1) // 2, n // 2)[rank] if name.startswith(prefix) else n_bytes
            for name, (n, n_bytes) in sizes.items()
        )
        for case in CASES:
            if case[0] == family and case[1] == "parts":
                assert result[case]["held"] == expected < sum(n for _, n in sizes.values())
