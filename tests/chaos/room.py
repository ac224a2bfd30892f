"""The storage's folder: on a file system of its own where we may mount one, so that it can fill."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Room:
    """A folder for artifacts whose disk can be full.

    With root it is a tmpfs, filled to its last byte by a file beside the artifacts: writes fail
    with ENOSPC. Without root the folders are made read-only instead: writes fail with EACCES.
    """

    def __init__(self, mount: Path, *, size_bytes: int) -> None:
        self.mount = mount
        self.storage = mount / "artifacts"
        self.reservations = self.storage / ".tts"  #: changes whenever an online job is published
        self._size_bytes = size_bytes
        self._filler = mount / "filler"
        self._mounted = False

    def open(self) -> None:
        """Make the folder, and mount the tmpfs if that is allowed."""
        self.mount.mkdir(parents=True)
        if os.geteuid() == 0:
            command = ["mount", "-t", "tmpfs", "-o", f"size={self._size_bytes}", "tmpfs"]
            done = subprocess.run([*command, str(self.mount)], check=False, capture_output=True)
            self._mounted = done.returncode == 0
        self.storage.mkdir()

    @property
    def means(self) -> str:
        """How `fill` does it."""
        return "tmpfs, ENOSPC" if self._mounted else "read-only folders, EACCES"

    def fill(self) -> None:
        """Let no write succeed any more."""
        if not self._mounted:
            self._set_mode(0o555)
            return
        with self._filler.open("wb") as file:
            while free := os.statvfs(self.mount).f_bavail * os.statvfs(self.mount).f_frsize:
                with suppress(OSError):  # a writer was faster: ask again how much is left
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)

    def free(self) -> None:
        """Let writes succeed again."""
        if not self._mounted:
            self._set_mode(0o755)
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep the artifacts beside the mount, for whoever looks into a failure, and unmount."""
        self.free()
        if self._mounted:
            shutil.copytree(self.storage, self.mount.with_name("artifacts"), dirs_exist_ok=True)
            subprocess.run(["umount", "-l", str(self.mount)], check=False, capture_output=True)
            self._mounted = False

    def _set_mode(self, mode: int) -> None:
        for folder, _, _ in list(os.walk(self.storage)):
            os.chmod(folder, mode)  # noqa: PTH101 - os.walk gives strings
