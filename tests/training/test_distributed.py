"""Two processes on half the batch each follow the trajectory of one process on all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
N_PROCESSES = 2
# A width that two processes do not share evenly; Conv1D, which stores neurons along the other axis.
FAMILIES = ("llama_odd", "gpt2")
# Family, strategy, engine, and whether gradients are reduced once per step.
CASES = [
    (family, strategy, engine, deferred)
    for family, deferred in (("llama_odd", True), ("gpt2", False))
    for strategy in ("ddp", "fsdp")
    for engine in ("hooks", "compact")
]
N_STEPS = 8


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return per process: case -> losses, norms and weights."""
    folder = tmp_path_factory.mktemp("distributed")
    for family in FAMILIES:
        tiny(family).hf.save_pretrained(folder / family)
    job = {
        "cases": CASES,
        "neurons": NEURONS["above"],
        "batches": batches()[:N_STEPS],
        "lr": LR,
        "decay": DECAY,
        "max_norm": MAX_NORM,
    }
    torch.save(job, folder / "job.pt")
    _run(folder)
    return [torch.load(folder / f"results{rank}.pt") for rank in range(N_PROCESSES)]


def _run(folder):
    logs = [(folder / f"log{rank}.txt").open("w+") for rank in range(N_PROCESSES)]
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, folder, str(rank), str(N_PROCESSES)],
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
    assert codes == [0] * N_PROCESSES, "\n\n".join(texts)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_two_processes_follow_the_trajectory_of_one(results, case):
    family = case[0]
    found = [Trajectory(**result[case]) for result in results]
    assert found[0].gap(found[1]) == 0, "both processes should hold the same model"
    assert found[0].gap(reference(family, n_steps=N_STEPS)) < TOLERANCE
    assert min(found[0].norms) > MAX_NORM
    hf = tiny(family).hf
    assert_only_chosen_changed(weights_of(hf), found[0].weights, family, NEURONS["above"], hf)
