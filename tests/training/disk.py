"""A file system of a test's own, which can be full or read-only."""

import subprocess

import pytest


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of so many kB."""
    folder = tmp_path / "disk"

    def mount(kilobytes: int):
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode:
            folder.rmdir()
            pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.strip()}")
        return folder

    yield mount
    if folder.exists():
        subprocess.run(["umount", "--recursive", folder], check=True)


def remount(folder, *options: str) -> None:
    subprocess.run(["mount", "-o", ",".join(["remount", *options]), folder], check=True)
