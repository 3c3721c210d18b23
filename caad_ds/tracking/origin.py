"""The origin of a run: user, code, machine and data."""

import getpass
import json
import platform
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from caad_ds import __version__
from caad_ds.tracking.secrets import command_line, hide_secrets

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

PACKAGES = ("torch", "transformers", "deepspeed", "mlflow")
PACKAGE = Path(__file__).parents[1]
GIT_SECONDS = 5
MODULES = ("cli.py", "__main__.py")  # program names of `python -m caad_ds`
MODEL = "model_sha256"  # tag of a training run: the hash of its model
EXPORTED = "exported."  # followed by a hash: tag of a run whose checkpoint was exported as that model
MAX_NAME, MAX_DIGEST = 500, 36  # MLflow's limits


@dataclass(frozen=True)
class Data:
    """A data set that a run reads: its path or address, a hash of its content, and its purpose."""

    name: str
    source: str
    sha256: str
    context: str
    profile: str = ""

    @property
    def digest(self) -> str:
        """The hash, truncated to MLflow's limit."""
        return self.sha256[:MAX_DIGEST]

    def as_input(self) -> "DatasetInput":
        """Return it as MLflow's entity."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": hide_secrets(self.source)})
        dataset = Dataset(self.name[:MAX_NAME], self.digest, "local", source, profile=self.profile or None)
        return DatasetInput(dataset, [InputTag("mlflow.data.context", self.context)])


def origin_tags(world_size: int | str) -> dict[str, str]:
    """Return the tags of this process, under MLflow's names for user, program and commit, and our own."""
    program = Path(sys.argv[0]).name
    if program in MODULES:
        program = "caad-ds"
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": program,
        "mlflow.source.type": "LOCAL",
        "host": socket.gethostname(),
        "world_size": str(world_size),
        "command": command_line([program, *sys.argv[1:]]),
        "version.caad-ds": __version__,
        "version.python": platform.python_version(),
    }
    tags |= {f"version.{name}": version for name in PACKAGES if (version := installed_version(name))}
    return tags | git_tags(PACKAGE)


def git_tags(package: Path) -> dict[str, str]:
    """Return commit and state of the code's checkout; none if no repository tracks the code."""
    if not _tracked(package):
        return {}
    commit, branch = _git(package, "rev-parse", "HEAD"), _git(package, "branch", "--show-current")
    changed = _git(package, "status", "--porcelain", "--untracked-files=no")
    tags = {"mlflow.source.git.commit": commit, "mlflow.source.git.branch": branch}
    tags["mlflow.source.git.dirty"] = None if changed is None else str(bool(changed)).lower()
    return {name: value for name, value in tags.items() if value}


def git_commit(package: Path) -> str | None:
    """Return the commit of the code's checkout; None if no repository tracks the code."""
    return _git(package, "rev-parse", "HEAD") if _tracked(package) else None


def _tracked(package: Path) -> bool:
    # A virtual environment may be inside another project's repository.
    return _git(package, "ls-files", "--error-unmatch", "__init__.py") is not None


def _git(folder: Path, *arguments: str) -> str | None:
    """Return git's output in a folder; None if it fails, is not installed, or takes too long."""
    try:
        ended = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout.strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def installed_version(package: str) -> str | None:
    """Return the version of a package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
