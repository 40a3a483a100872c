"""Keeps two runs from working on one study: a small file beside it, which the run that has it changes all the time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from pathlib import Path
from typing import Any

from openhpo.errors import UserError

FILE = "running.json"
BEAT = 2.0  # seconds between two changes
PATIENCE = 10.0  # seconds without a change after which its run is taken for dead


class Claim:
    """The right to write a study. No clock is compared between hosts: who comes looks whether the file still changes.

    Args:
        folder: The study's folder.

    Raises:
        UserError: Another run works on the study, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._token = uuid.uuid4().hex
        self._beats = 0
        self._beaten = -BEAT  # when, by a clock that starts at 0 or later
        self._made_folder = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._wait_for_the_other()
            self._write()
        except OSError as error:
            raise UserError(
                f"the study cannot be written to {folder}: {error.strerror or error}. Choose another --study."
            ) from None

    def _wait_for_the_other(self) -> None:
        """Return when no other run has the study."""
        first = self._read()
        if first is None or _is_dead(first):
            return
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(BEAT / 10)
            now = self._read()
            if now is None:
                return
            if now != first:
                raise UserError(
                    f"{self._path.parent} is being worked on by another run: process {now.get('process')} on "
                    f"{now.get('host')}. Wait for its end, or choose another --study."
                )

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _write(self) -> None:
        content = {"host": socket.gethostname(), "process": os.getpid(), "token": self._token, "beat": self._beats}
        unfinished = self._path.with_suffix(f".{self._token}")
        try:
            unfinished.write_text(json.dumps(content))
            os.replace(unfinished, self._path)  # so that it never is half there
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise

    def beat(self) -> None:
        """Show that this run is alive; does nothing where the last time is less than BEAT ago.

        Raises:
            UserError: Another run has taken the study over, as this one was silent for too long.
        """
        now = time.monotonic()
        if now - self._beaten < BEAT:
            return
        self._beaten = now
        found = self._read()
        if found is not None and found.get("token") != self._token:
            raise UserError(
                f"{self._path.parent} has been taken over by process {found.get('process')} on {found.get('host')} while this "
                "run stood still; it leaves the study to that one"
            )
        self._beats += 1
        with contextlib.suppress(OSError):  # a full disk is the study file's to tell
            self._write()

    def release(self) -> None:
        """The run is over."""
        found = self._read()
        if found is not None and found.get("token") == self._token:
            with contextlib.suppress(OSError):
                self._path.unlink()
                if self._made_folder:
                    self._path.parent.rmdir()  # where nothing was written


def _is_dead(claim: dict[str, Any]) -> bool:
    """Whether the run was on this host and is no more."""
    process = claim.get("process")
    if claim.get("host") != socket.gethostname() or not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return process == os.getpid() or _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Whether a process is only waited for, which in a container nobody may ever do (Linux)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
