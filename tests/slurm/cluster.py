"""A real Slurm of two nodes on one host: slurmctld, munge and two slurmd in a separate mount namespace."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.training.launching import LAUNCH

CONFIG = """\
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge/munge.sock,cred_expire=5
CredType=cred/munge
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmctldPidFile={base}/slurmctld.pid
SlurmctldLogFile={base}/log/slurmctld.log
StateSaveLocation={base}/state
SlurmdPidFile={base}/slurmd.%n.pid
SlurmdLogFile={base}/log/slurmd.%n.log
SlurmdSpoolDir={base}/spool/%n
SlurmdParameters=config_overrides
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName=DEFAULT CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 \
ThreadsPerCore=1 RealMemory=4000 Gres=gpu:2
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2}
PartitionName=debug Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE \
GraceTime=20
PartitionName=high Nodes=node[1-2] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

# The namespace keeps the two nodes' names out of the host's own /etc/hosts.
DAEMONS = """\
mount --bind {base}/hosts /etc/hosts
munged --force --key-file={base}/munge/munge.key --socket={base}/munge/munge.sock --pid-file={base}/munge/munged.pid \
--log-file={base}/munge/munged.log --seed-file={base}/munge/munged.seed
slurmctld -f {base}/slurm.conf -i
for node in node1 node2; do
  unshare -u bash -c "hostname $node; exec slurmd -N $node -f {base}/slurm.conf"
done
"""


def missing() -> str | None:
    """Why no Slurm can be started here, or None."""
    if os.geteuid() != 0:
        return "a test Slurm needs root"
    absent = [name for name in ("slurmctld", "slurmd", "munged", "sbatch", "unshare") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)" if absent else None


class Cluster:
    """Two nodes `node1` and `node2` with two cores and two pretended GPUs each; `base` holds its files."""

    def __init__(self, base: Path) -> None:
        self.base = base
        # A test before may be in a process group; two jobs would then meet at its port.
        self.env = {name: value for name, value in os.environ.items() if name not in LAUNCH}
        self.env["SLURM_CONF"] = str(base / "slurm.conf")

    def start(self) -> None:
        """Write the configuration, start the daemons and wait until both nodes are idle."""
        host = socket.gethostname().split(".")[0]
        port, node1, node2 = free_ports(3)
        for folder in ("munge", "state", "log", "dev", "spool/node1", "spool/node2"):
            (self.base / folder).mkdir(parents=True)
        for folder in (self.base, self.base / "munge"):
            folder.chmod(0o755)
        for index in (0, 1):
            subprocess.run(["mknod", str(self.base / f"dev/nvidia{index}"), "c", "1", "3"], check=True)
        (self.base / "munge/munge.key").touch(0o600)
        (self.base / "munge/munge.key").write_bytes(os.urandom(1024))
        (self.base / "hosts").write_text(Path("/etc/hosts").read_text() + "127.0.0.1 node1\n127.0.0.1 node2\n")
        (self.base / "gres.conf").write_text(f"NodeName=node[1-2] Name=gpu File={self.base}/dev/nvidia[0-1]\n")
        config = CONFIG.format(base=self.base, host=host, port=port, node1=node1, node2=node2)
        (self.base / "slurm.conf").write_text(config)
        script = DAEMONS.format(base=self.base)
        log = self.base / "log/start.log"
        with log.open("w") as out:
            subprocess.run(["unshare", "-m", "bash", "-ec", script], env=self.env, stdout=out, stderr=out, check=True)
        self.wait(lambda: self.run("sinfo", "-h", "-o", "%T %D").strip() == "idle 2", 30, "the nodes to be idle")

    def stop(self) -> None:
        """End every job and wait for it, since its processes outlive slurmd; then the daemons by their pid files."""
        if (self.base / "slurmctld.pid").exists():
            self.run("scancel", "-u", "root")
            self.wait(lambda: not self.run("squeue", "-h"), 20, "the last jobs to end")
        pid_files = [*self.base.glob("slurmd.*.pid"), self.base / "slurmctld.pid", self.base / "munge/munged.pid"]
        pid_files = [path for path in pid_files if path.exists()]
        for path in pid_files:
            os.kill(int(path.read_text()), signal.SIGTERM)
        self.wait(lambda: not any(path.exists() for path in pid_files), 20, "the daemons to remove their pid files")

    def run(self, *command: str) -> str:
        """Standard output of a Slurm command."""
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True, timeout=60).stdout

    def submit(self, *arguments: str, cwd: Path, **variables: str) -> int:
        """The id of a job submitted from `cwd` with `variables` added to its environment."""
        env = {**self.env, **variables}
        command = ["sbatch", "--parsable", *arguments]
        out = subprocess.run(command, env=env, cwd=cwd, check=True, capture_output=True, text=True, timeout=60).stdout
        return int(out.split(";")[0])

    def job(self, job_id: int) -> dict[str, str]:
        """The fields of `scontrol show job`, by name."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.run("scontrol", "show", "job", str(job_id))))

    def finished(self, job_id: int, timeout: float = 60) -> dict[str, str]:
        """The job's fields once it has ended for good."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}
        self.wait(lambda: self.job(job_id)["JobState"] in ended, timeout, f"job {job_id} to end")
        return self.job(job_id)

    @staticmethod
    def wait(condition, timeout: float, what: str) -> None:
        """Poll until `condition()` holds; TimeoutError names `what` was awaited."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout:.0f} s for {what}")
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
