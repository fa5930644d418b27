"""Launchers are understood or refused, and processes share a training without sharing its dice.

Two machines are emulated on this one: two processes with the variables that a launcher sets.
"""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from helpers import processes
from helpers.errors import OtherProcessError

NETWORKS = Path(__file__).parent / "models"

LAYOUTS = {
    "alone": ({}, (1, 1)),
    "torchrun, one machine": ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, (1, 2)),
    "torchrun, three machines": ({"WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2"}, (3, 2)),
    "srun -n 2": ({"SLURM_NTASKS": "2", "SLURM_NNODES": "1", "SLURM_TASKS_PER_NODE": "2"}, (1, 2)),
    "srun -N 2 -n 2": (
        {"SLURM_NTASKS": "2", "SLURM_NNODES": "2", "SLURM_TASKS_PER_NODE": "1(x2)"},
        (2, 1),
    ),
    "srun --ntasks-per-node=4": (
        {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4"},
        (2, 4),
    ),
    "a smaller step of a larger job": (
        {
            "SLURM_NTASKS": "2",
            "SLURM_NNODES": "1",
            "SLURM_NTASKS_PER_NODE": "4",
            "SLURM_STEP_TASKS_PER_NODE": "2",
        },
        (1, 2),
    ),
    "srun -n 1": ({"SLURM_NTASKS": "1", "SLURM_NNODES": "1"}, (1, 1)),
    "a shell in a reservation": ({"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"}, (1, 1)),
    "torchrun inside SLURM": (
        {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "SLURM_NTASKS": "2", "SLURM_NNODES": "2"},
        (2, 2),
    ),
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "PMI_")) or name.endswith("WORLD_SIZE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")  # what is set for Fabric is put back


@pytest.mark.parametrize("name", LAYOUTS)
def test_machines_and_processes_are_read_from_the_environment(name, monkeypatch):
    variables, expected = LAYOUTS[name]
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert processes._layout(os.environ) == expected


REFUSED = {
    "uneven torchrun": ({"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2"}, "this one has 2, all .* 3"),
    "uneven SLURM": (
        {"SLURM_NTASKS": "3", "SLURM_NNODES": "2", "SLURM_TASKS_PER_NODE": "2,1"},
        "set --nodes and --ntasks-per-node",
    ),
    "mpirun": ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE says that 2 processes"),
    "by hand": ({"WORLD_SIZE": "2", "RANK": "1"}, "start them with torchrun, fabric run or srun"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_launcher_that_is_not_understood_is_refused(name, monkeypatch):
    variables, message = REFUSED[name]
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        processes.launched_fabric()


def test_a_batch_script_without_srun_is_told_what_it_waits_for(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_ID")
    for name, value in {"NTASKS": "2", "NNODES": "1", "TASKS_PER_NODE": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.warns(UserWarning, match="write `srun python"):
        processes._layout(os.environ)


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_do_not_come_are_not_waited_for(rank, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in variables("torchrun", rank, port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_STEP", timedelta(seconds=1))
    with pytest.raises(OtherProcessError, match=r"2 processes should have met within 0:00:01"):
        processes.launched_fabric()


JOB = """
import sys

import torch

torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from small import Net, cohort

from helpers import models, processes

fabric = processes.launched_fabric()
model, masks, noises = Net(dropout=0.5), [], []

def watch(module, given, made):
    if module.training:
        masks.append(torch.stack([given[0] > 0, made == 0]))

model.dropout.register_forward_hook(watch)

def noisy(volumes, generator):
    noises.append(torch.randn(volumes.shape, generator=generator))
    return volumes + 0.1 * noises[-1]

people = cohort(16)
history = models.train(
    model, people, validation=cohort(8, seed=1), epochs=2, batch_size=8, augment=noisy,
    fabric=fabric, progress=False, checkpoint=sys.argv[3],
)
unwatched = Net()
models.train(unwatched, people, epochs=1, batch_size=8, fabric=fabric, progress=False)
torch.save(
    {
        "unwatched": unwatched.state_dict(),
        "rank": (fabric.global_rank, fabric.node_rank, fabric.world_size),
        "state": model.state_dict(),
        "loss": history["validation_loss"].tolist(),
        "masks": torch.stack(masks),
        "noises": torch.stack(noises),
    },
    f"{sys.argv[2]}-{fabric.global_rank}.pt",
)
"""


def variables(launcher, rank, port):
    """Return what torchrun and srun tell the only process on one of two machines."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if launcher == "torchrun":
        return where | {
            "TORCHELASTIC_RUN_ID": "none",
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "1",
            "RANK": str(rank),
            "LOCAL_RANK": "0",
            "GROUP_RANK": str(rank),
        }
    return where | {
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NAME": "train",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_NNODES": "2",
        "SLURM_TASKS_PER_NODE": "1(x2)",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(rank),
    }


@pytest.fixture(scope="module", params=["torchrun", "srun"])
def trained(request, tmp_path_factory):
    """Train on two emulated machines that share no folder; return what each process ended with."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "job.py").write_text(JOB)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    started = [
        subprocess.Popen(
            [sys.executable, folder / "job.py", NETWORKS, folder / "end", folder / f"c{rank}"],
            env=clean | variables(request.param, rank, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return folder, [torch.load(folder / f"end-{rank}.pt") for rank in range(2)]


def test_two_machines_are_one_training(trained):
    folder, ends = trained
    assert [end["rank"] for end in ends] == [(0, 0, 2), (1, 1, 2)]
    assert ends[0]["loss"] == ends[1]["loss"]
    assert [(folder / f"c{rank}").exists() for rank in range(2)] == [True, False]


def test_batch_normalization_ends_alike_and_as_it_was_validated(trained):
    """Running statistics follow each process's share; what is kept must be what was scored."""
    sys.path.insert(0, str(NETWORKS))
    from small import Net, cohort

    ends = trained[1]
    for kind in ("state", "unwatched"):
        for name, value in ends[0][kind].items():
            assert torch.equal(value, ends[1][kind][name]), (kind, name)
    model = Net(dropout=0.5).eval()
    assert not torch.equal(ends[0]["state"]["norm.running_mean"], model.norm.running_mean)
    model.load_state_dict(ends[0]["state"])
    held_out = cohort(8, seed=1)
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(held_out.volumes), held_out.labels)
    assert float(loss) == pytest.approx(min(ends[0]["loss"]), rel=1e-5)


def test_processes_share_no_dropout_mask(trained):
    """Where a unit is alive in both processes, it is dropped in one as if the other were not."""
    first, second = (end["masks"] for end in trained[1])
    assert len(first) == len(second) == 4
    for (alive, dropped), (alive_too, dropped_too) in zip(first, second, strict=True):
        same = (dropped == dropped_too)[alive & alive_too].float().mean()
        assert 0.4 < float(same) < 0.6


def test_processes_share_no_augmentation(trained):
    first, second = (end["noises"].flatten(1) for end in trained[1])
    assert len(first) == len(second) == 4
    correlations = torch.corrcoef(torch.cat([first, second])) - torch.eye(8)
    assert correlations.abs().max() < 0.1
