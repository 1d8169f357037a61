"""Slurm on one machine for as long as a check lasts: a controller and two nodes, each with a slurmd of its own.

Debian's packages are installed where they are missing and this user may. Configuration, keys and state lie in a folder of the
check's own; a Slurm that the machine has is left alone.
"""
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PACKAGES = ["slurm-wlm", "slurmctld", "slurmd", "slurm-client", "munge"]
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "scontrol"]
CLIENTS = ["sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun"]
CONFIGURATION = """
ClusterName=greedy
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=16000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=16000
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


class LeftOut(Exception):
    """Why something cannot be checked here."""


def install():
    if os.geteuid() != 0:
        raise LeftOut("Slurm's daemons are started by root only")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise LeftOut(f"{' '.join(missing)} are not installed, and there is no apt-get")
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    try:
        subprocess.run(["apt-get", "update"], **quiet)
        subprocess.run(command, env=environment, check=True, **quiet)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as fault:
        raise LeftOut(f"Debian's packages of Slurm could not be installed: {fault}") from None


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """A cluster of two nodes in a folder, up between `with` and its end; `environment` is for what talks to it."""

    def __init__(self, folder):
        self.folder, self.daemons = Path(folder), []
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        self.environment = dict(os.environ, SLURM_CONF=str(self.folder / "slurm.conf"), PATH=path)

    def __enter__(self):
        install()
        munge = self.folder / "munge"
        for folder in [self.folder, munge, self.folder / "state", self.folder / "bin"]:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        key = munge / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        configuration = CONFIGURATION.format(host=socket.gethostname(), ports=free_ports(3), folder=self.folder)
        (self.folder / "slurm.conf").write_text(configuration)
        # Snakemake's plugin takes all variables of Slurm's from its tasks: their programs have to know the file themselves.
        for client in CLIENTS:
            script = self.folder / "bin" / client
            script.write_text(f"#!/bin/sh\nSLURM_CONF={self.folder / 'slurm.conf'} exec {shutil.which(client)} \"$@\"\n")
            script.chmod(0o755)
        try:
            files = [f"--{name}-file={munge / name}" for name in ["key", "pid", "log", "seed"]]
            self.start("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files)
            self.wait("munged has no socket", lambda: (munge / "socket").exists())
            self.start("slurmctld", "-D")
            for node in ["n1", "n2"]:
                self.start("slurmd", "-D", "-N", node)
            idle = lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"]
            self.wait("its nodes do not come up", idle)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, name, *options):
        log = open(self.folder / f"{name}-{len(self.daemons)}.out", "wb")
        command = [shutil.which(name), *options]
        self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT))

    def wait(self, fault, is_so, seconds=60):
        for _ in range(10 * seconds):
            ended = [one.args[0] for one in self.daemons if one.poll() is not None]
            if ended:
                raise LeftOut(f"Slurm does not start here: {ended[0]} has ended, its log is in {self.folder}")
            if is_so():
                return
            time.sleep(0.1)
        raise LeftOut(f"Slurm does not start here: {fault}")

    def ask(self, *command):
        run = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return run.stdout

    def stop(self):
        self.ask("scancel", "--user=root")
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        self.daemons = []
