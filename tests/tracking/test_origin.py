"""The tags that say who ran which code where."""

import socket
import subprocess

from caad_ds.tracking.origin import git_tags, origin_tags


def test_the_origin_names_user_host_command_versions_and_commit(monkeypatch):
    argv = ["/opt/bin/caad-ds", "train", "--set", "hub.token=hunter2", "run.name=x", "--api-key", "hunter2", "--debug"]
    monkeypatch.setattr("sys.argv", [*argv, "tracking.uri=http://ann:hunter2@host"])
    monkeypatch.setenv("LOGNAME", "ann")
    tags = origin_tags(4)
    assert (tags["mlflow.user"], tags["mlflow.source.name"], tags["world_size"]) == ("ann", "caad-ds", "4")
    assert tags["command"] == (
        "caad-ds train --set 'hub.token=[hidden]' run.name=x --api-key '[hidden]' --debug "
        "'tracking.uri=http://[hidden]@host'"
    )
    assert tags["host"] == socket.gethostname() and tags["version.torch"] and tags["version.caad-ds"]


def test_commit_and_changes_are_those_of_the_repository_that_tracks_the_code(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git("init", "-b", "trunk")
    assert git_tags(package) == {}, "it lies in a repository that does not hold it"
    git("add", ".")
    git("commit", "-m", "one")
    found = {"commit": git("rev-parse", "HEAD"), "branch": "trunk", "dirty": "false"}
    assert git_tags(package) == {f"mlflow.source.git.{name}": value for name, value in found.items()}
    (package / "__init__.py").write_text("changed")
    assert git_tags(package)["mlflow.source.git.dirty"] == "true"
