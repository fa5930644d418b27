"""Shares of the participants as jobs: on this machine, and on a SLURM that is played."""

import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import submitit
import torch
from small_study import CARD, GRID, contents, main, network

from helpers import attribution, cohorts, command, grids
from helpers.errors import OtherProcessError
from helpers.study import cluster

pytestmark = pytest.mark.filterwarnings("ignore:The `srun` command is available")

NAMES = ("a", "b", "c", "d")

# A network of one's own is code, so it can say which process explains what, and let mishaps happen.
WATCHED = """
import os, signal, time
from pathlib import Path
from helpers import attribution, models

HERE = Path(__file__).parent
seen = []

def once(mishap):
    try:
        (HERE / mishap).unlink()
        return True
    except FileNotFoundError:
        return False

def watched(network, volumes, target):
    seen.append(float(volumes.sum()))
    with (HERE / "calls").open("a") as calls:
        calls.write(f"{os.getpid()} {seen[-1]}\\n")
    if len(seen) == 2 and once("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if once("preempt"):
        os.kill(os.getpid(), signal.SIGUSR2)
    if (HERE / "together").exists():
        wait_for_another_process()
    return attribution.gradient(network, volumes, target)

def wait_for_another_process():
    (HERE / "together" / str(os.getpid())).touch()
    for _ in range(1200):
        if len(list((HERE / "together").iterdir())) == 2:
            return
        time.sleep(0.1)
    raise TimeoutError("no second process came")

attribution.METHODS["gradient"] = watched

def network():
    return models.build("course", 2, %s)
"""


@pytest.fixture(scope="module", autouse=True)
def unwatched():
    """Give the method back afterwards."""
    method = attribution.METHODS["gradient"]
    yield
    attribution.METHODS["gradient"] = method


@pytest.fixture(scope="module")
def prepared_place(tmp_path_factory):
    """Four scans and a network that is watched."""
    place = tmp_path_factory.mktemp("cluster")
    brains = cohorts.simulate("lesion", len(NAMES), grid=GRID, seed=8).volumes
    for name, brain in zip(NAMES, brains, strict=True):
        grids.save(brain, GRID, place / f"scans/{name}.nii.gz")
    (place / "net.py").write_text(WATCHED % (GRID.shape,))
    torch.save(network().state_dict(), place / "net.pt")
    card = "\n".join(f"{name} = {CARD[name]!r}" for name in ("classes", "shape", "spacing_mm"))
    (place / "net.toml").write_text(card.replace("'", '"'))
    return place


@pytest.fixture
def place(prepared_place, monkeypatch):
    """The same, with nothing explained yet; and processes that compute as this one does."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (prepared_place / "calls").write_text("")
    return prepared_place


@pytest.fixture(scope="module")
def one_machine(prepared_place):
    """What a run on one machine writes."""
    assert main(*arguments(prepared_place, "one")) == 0
    return written(prepared_place / "one")


def arguments(place, out):
    model = [f"--model={place}/net.py:network", f"--weights={place}/net.pt", "--method=gradient"]
    return ["explain", str(place / "scans"), str(place / out), *model]


def submitted(place, out, **options):
    logs = place / out / ".logs"
    options = {"jobs": 2, "folder": logs, **options}
    return cluster.submit(command.main, arguments(place, out), NAMES, **options)


def written(out):
    return {name: text for name, text in contents(out).items() if not name.startswith(".logs")}


def calls(place):
    """Which process has begun to explain which scan."""
    return [line.split() for line in (place / "calls").read_text().splitlines()]


def ended(*processes):
    return [process.wait(timeout=400) for process in processes]


# Processes of this machine as nodes


def test_one_of_two_nodes_is_killed_and_the_same_command_goes_on(place, one_machine):
    (place / "kill").touch()
    with pytest.raises(OtherProcessError) as failed:
        submitted(place, "two", executor="local")
    said = str(failed.value)
    assert said.startswith("1 of 2 shares failed; what they finished is kept, and the same command")
    assert said.count("was killed, perhaps because memory or time ran out; see") == 1
    assert Path(said.partition("; see ")[2]).exists()
    records = {name: place / f"two/{name}_desc-gradient_map.json" for name in NAMES}
    (missing,) = [name for name in NAMES if not records[name].exists()]
    assert f"sub-{missing}" in said
    table = (place / "two/group/desc-gradient_scans.tsv").read_text()
    assert table.count("it has not been explained yet") == 1
    begun = calls(place)
    assert sorted(Counter(process for process, _ in begun).values()) == [2, 2]
    assert len({scan for _, scan in begun}) == len(NAMES)

    assert submitted(place, "two", executor="local") == [0, 0, 0]
    assert written(place / "two") == one_machine
    assert len(calls(place)) == len(NAMES) + 1  # only that one again
    assert calls(place)[-1][1] in {scan for _, scan in begun}


def test_ctrl_c_ends_the_jobs(place, monkeypatch):
    waited = []

    def stopped(job):
        waited.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(submitit.LocalJob, "wait", stopped)
    with pytest.raises(KeyboardInterrupt):
        submitted(place, "stopped", executor="local")
    assert waited[0]._process.wait(timeout=60) != 0
    assert not calls(place)


def test_two_runs_at_once_share_the_work(place, one_machine):
    (place / "together").mkdir()
    run = [sys.executable, "-m", "helpers.command", *arguments(place, "at_once")]
    runs = [subprocess.Popen(run, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert ended(*runs) == [0, 0]
    shutil.rmtree(place / "together")
    assert written(place / "at_once") == one_machine
    assert len({process for process, _ in calls(place)}) == 2
    assert len(calls(place)) == len({scan for _, scan in calls(place)}) == len(NAMES)


# SLURM

SBATCH = """#!/bin/sh
job=$((41 + $(ls "$(dirname "$0")" | grep -c '^job-')))
cp "$1" "$(dirname "$0")/job-$job"
echo "Submitted batch job $job"
"""
SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do
    case $1 in --output | --error) shift ;; esac
    shift
done
exec "$@"
"""
SCONTROL = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/scontrol-said"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder of programs that are called like SLURM's; it gets the jobs that are queued."""
    for name, program in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def started(slurm, number):
    """Start a queued job as a node of the cluster would."""
    own = {"SLURM_JOB_ID": str(number), "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    script = ["bash", slurm / f"job-{number}"]
    return subprocess.Popen(script, env={**os.environ, **own}, stderr=subprocess.DEVNULL)


def test_a_job_that_slurm_preempts_is_queued_again(place, one_machine, slurm):
    (place / "preempt").touch()
    assert submitted(place, "preempted", jobs=1) == ["41", "42"]
    assert ended(started(slurm, 41)) != [0]
    assert (slurm / "scontrol-said").read_text() == "requeue 41\n"
    (folder,) = (place / "preempted/.logs").iterdir()
    queued_again, last = (
        pickle.loads((folder / f"{number}_submitted.pkl").read_bytes()).function
        for number in (41, 42)
    )
    # As submitit does it, but without the seconds that another process takes to start.
    (folder / "41_0_result.pkl").write_bytes(pickle.dumps(("success", queued_again())))
    assert last() == 0
    assert written(place / "preempted") == one_machine


def test_the_last_job_names_the_shares_that_failed(place, slurm):
    submitted(place, "refused", jobs=3)
    folder = next((place / "refused/.logs").iterdir())
    for task, result in (("0", ("success", 2)), ("1", ("error", "Traceback\nOSError: no disk\n"))):
        (folder / f"41_{task}_0_result.pkl").write_bytes(pickle.dumps(result))
    (folder / "41_0_0_log.err").write_text("50%\nbrain-cnns explain: cannot write x\n")
    with pytest.raises(OtherProcessError) as failed:
        pickle.loads((folder / "42_submitted.pkl").read_bytes()).function()
    said = str(failed.value)
    assert said.startswith("3 of 3 shares failed")
    for part in (
        "share 1 of 3 (sub-a, sub-d) ended with exit code 2 (brain-cnns explain: cannot write x)",
        "share 2 of 3 (sub-b) failed: OSError: no disk; see",
        "share 3 of 3 (sub-c) was killed",
    ):
        assert part in said


def queued(folder):
    """What each job will do: its number and the arguments of the command."""
    jobs = {}
    for path in folder.glob("*/*_submitted.pkl"):
        work = pickle.loads(path.read_bytes()).function
        jobs[path.name.removesuffix("_submitted.pkl")] = getattr(work, "last", work).arguments
    return jobs


def test_what_is_queued_on_slurm(slurm, tmp_path):
    people = [f"{number:02d}" for number in range(10)] + ["sub-03"]
    numbers = cluster.submit(
        command.main,
        ["explain", "study", "out", "--model=lesion", "--method=lrp"],
        people,
        jobs=4,
        folder=tmp_path / "logs",
        slurm={"partition": "long", "time": "90", "cpus_per_task": "2", "reservation": "ours"},
    )
    assert numbers == ["41_0", "41_1", "41_2", "41_3", "42"]
    array, last = ((slurm / f"job-{number}").read_text() for number in (41, 42))
    assert "#SBATCH --array=0-3%4\n" in array
    assert "--array" not in last
    assert "#SBATCH --dependency=afterany:41\n" in last
    assert "--dependency" not in array
    for job in (array, last):
        for wanted in ("partition=long", "time=90", "cpus-per-task=2", "reservation=ours"):
            assert f"#SBATCH --{wanted}\n" in job
        assert "#SBATCH --nodes=1\n" in job
        assert f"{sys.executable} -u -m submitit.core._submit {tmp_path}/logs/explain-" in job
        assert f"--output {tmp_path}/logs/explain-" in job
    jobs = queued(tmp_path / "logs")
    assert sorted(jobs) == sorted(numbers)
    assert jobs.pop("42") == ("explain", "study", "out", "group", "--model=lesion", "--method=lrp")
    before = ("explain", "study", "out", "participant", "--model=lesion", "--method=lrp")
    assert all(job[:7] == (*before, "--participant-label") for job in jobs.values())
    shares = [job[7:] for job in jobs.values()]
    everybody = [name for share in shares for name in share]
    assert sorted(everybody) == [f"sub-{number:02d}" for number in range(10)]
    assert sorted(map(len, shares)) == [2, 2, 3, 3]


def test_people_without_tables_are_one_array(slurm, tmp_path):
    run = ["preprocess", "study", "out"]
    assert cluster.submit(command.main, run, ["01"], jobs=9, folder=tmp_path, group=False) == ["41"]
    ((_, _, _, level, *_),) = queued(tmp_path).values()
    assert level == "participant"


def test_slurm_says_no(slurm, tmp_path):
    (slurm / "sbatch").write_text("#!/bin/sh\necho invalid partition specified >&2\nexit 1\n")
    with pytest.raises(ValueError, match=r"(?s)SLURM refuses the jobs: .*invalid partition"):
        cluster.submit(command.main, ["explain", "in", "out"], ["01"], jobs=1, folder=tmp_path)


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"participants": []}, "no participants to divide"),
        ({"jobs": 0}, "jobs must be 1 or more, got 0"),
        ({"executor": "pbs"}, r"unknown executor 'pbs'; there are \['slurm', 'local'\]"),
        ({"executor": "local", "slurm": {"mem": "4GB"}}, "is for SLURM; leave it out"),
        ({"slurm": {"ntasks_per_node": "2", "array": "0-3"}}, "array, ntasks-per-node cannot be"),
        ({"slurm": {"time": "2:00:00"}}, "time is a number of minutes, got '2:00:00'"),
    ],
)
def test_wrong_requests(slurm, tmp_path, options, message):
    wanted = {"participants": ["01"], "jobs": 2, "folder": tmp_path / "logs", **options}
    with pytest.raises(ValueError, match=message):
        cluster.submit(command.main, ["explain", "in", "out"], **wanted)
    assert not (tmp_path / "logs").exists()


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match='Could not detect "srun".* or take executor='):
        cluster.submit(command.main, ["explain", "in", "out"], ["01"], jobs=1, folder=tmp_path)


def test_submitit_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match="pip install submitit"):
        cluster.submit(command.main, ["explain", "in", "out"], ["01"], jobs=1, folder=tmp_path)
