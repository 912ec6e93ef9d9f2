"""Start, stop and resume training processes. They outlive whoever started them: page, terminal or web server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
from filelock import FileLock, Timeout

from .paths import PROJECT, cache_folder
from .runs import Run, RunError


def start(run: Run) -> None:
    """Start a run, or go on from its newest checkpoint, in a process of its own session. Raises RunError."""
    try:
        with FileLock(run.path / ".start.lock", timeout=60):  # if two start it at once, the second finds it started
            _start(run)
    except Timeout:
        raise RunError(f"{run.name} is being started already.") from None


def _start(run: Run) -> None:
    process, status = run.process(), run.status()
    if process is not None and not status.active:
        psutil.wait_procs([process], timeout=30)  # it has written its last event and is about to end
    if run.process() is not None:
        raise RunError(f"{run.name} is running already.")
    if status.state == "finished":
        raise RunError(f"{run.name} is finished. Start a new run to train on.")
    run.clear("stop")
    with run.log_path.open("ab") as log:
        child = subprocess.Popen(
            command(run),
            cwd=PROJECT,
            env=environment(run),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        run.write_launch(child.pid, status.starts + 1)
    except OSError:
        child.kill()  # nobody could find it again to watch or stop it
        child.wait()
        raise
    threading.Thread(target=child.wait, daemon=True).start()  # reap it, so that it does not stay a zombie


VISIBLE, ALL_VISIBLE = "CUDA_VISIBLE_DEVICES", "LOWRANK_VISIBLE_DEVICES"


def environment(run: Run) -> dict[str, str]:
    """This process's environment, in which the run sees its own GPUs; compiled code is kept with the other caches.

    A training that starts the next one hands on the GPUs that it could see itself (``LOWRANK_VISIBLE_DEVICES``), and
    nothing of what its own launcher said to it.
    """
    launched = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(launched)}
    own = {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "compiled"), **inherited, "PYTHONUNBUFFERED": "1"}
    visible, train = own.pop(ALL_VISIBLE, None), run.config().train
    visible = own.get(VISIBLE, "") if visible is None else visible
    if visible:
        own[VISIBLE] = visible
    else:
        own.pop(VISIBLE, None)
    if train.gpu:
        every = visible.split(",") if visible else [str(number) for number in range(train.gpu + train.gpus)]
        own |= {VISIBLE: ",".join(every[train.gpu : train.gpu + train.gpus]), ALL_VISIBLE: visible}
    return own


def command(run: Run) -> list[str]:
    """The training process; for several GPUs torch's launcher, with a process for each."""
    trainer = ["-m", "trainers", str(run.path)]
    gpus = run.config().train.gpus
    if gpus == 1:
        return [sys.executable, *trainer]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", *trainer]


def accelerate(run: Run, address: str = "", machines: int = 1) -> list[list[str]]:
    """The same through accelerate, for a person to type on each machine: it also knows machines that we do not.

    Args:
        run: Its folder has the same path on all machines, as on a shared disk; its ``train.gpus`` are those of all.
        address: HOST or HOST:PORT of the first machine, where the others find it.
        machines: How many there are, with as many GPUs each.

    Raises:
        RunError: the GPUs are not as many on each, or there is no address.
    """
    gpus = run.config().train.gpus
    how = [*(["--multi_gpu"] if gpus > 1 else []), "--num_processes", str(gpus)]
    host, _, port = address.partition(":")
    if machines < 1 or gpus % machines or (machines > 1 and not (host and (port or "1").isdecimal())):
        raise RunError(
            f"--machines: {machines} machines need a number of train.gpus that they can share evenly, got {gpus}, and "
            f"--address HOST or HOST:PORT of the first, got {address!r}."
        )
    where = ["--num_machines", str(machines), "--main_process_ip", host, "--main_process_port", port or "29500"]
    ranks = [[*where, "--machine_rank", str(rank)] for rank in range(machines)] if machines > 1 else [[]]
    launch, trainer = [sys.executable, "-m", "accelerate.commands.launch", *how], ["-m", "trainers", str(run.path)]
    return [[*launch, *rank, *trainer] for rank in ranks]


def stop(run: Run, kill_after: float | None = None) -> None:
    """Ask a run to save and stop. With ``kill_after``, end its process after that many seconds. Raises RunError."""
    if run.process() is None:
        raise RunError(f"{run.name} is not running (it is {run.status().state}).")
    run.request("stop")
    if kill_after is not None:
        deadline = time.monotonic() + kill_after
        while run.process() is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in filter(None, (run.launcher(), run.process())):
            _kill(process)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        for one in [*process.children(recursive=True), process]:
            one.kill()
