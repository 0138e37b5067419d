"""Runs jobs as a user does: by the command line, on a service of this machine."""

import json
import os
import socket
import subprocess
import time
from pathlib import Path

READY_SECONDS = 30
JOB_SECONDS = 4 * 3600


class Service:
    """`espalier up` in a folder, ended with the context. Each worker runs one job at a time."""

    def __init__(self, programs: Path, folder: Path, workers: int) -> None:
        self.espalier = programs / "espalier"
        self.folder = folder
        self.workers = workers
        self.commands: set[subprocess.Popen] = set()

    def __enter__(self) -> "Service":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.environment = os.environ | {"ESPALIER_ENDPOINT": f"http://{address}"}
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / "up.log").open("w")
        command = ["up", "--dir", self.folder, "--listen", address, "--workers", str(self.workers)]
        self.process = subprocess.Popen([self.espalier, *command], stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + READY_SECONDS
        while self.run("worker", "list").returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise SystemExit(f"error: espalier up is not ready; see {self.folder / 'up.log'}")
            time.sleep(0.2)
        self.cancel_left_over()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the service, and the commands that wait for it in other threads."""
        self.process.terminate()
        self.process.wait(timeout=READY_SECONDS)
        for command in list(self.commands):
            command.terminate()

    def cancel_left_over(self) -> None:
        """Jobs of an experiment that was stopped would go on first, and nobody waits for them."""
        for job in json.loads(self.run("job", "list", "--output", "json").stdout):
            if not job["end_time"]:
                self.run("job", "cancel", job["job_id"], "--reason", "the experiment that submitted it was stopped")

    def run(self, *arguments: object) -> subprocess.CompletedProcess:
        command = subprocess.Popen(
            [self.espalier, *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.commands.add(command)
        try:
            stdout, stderr = command.communicate()
        finally:
            self.commands.discard(command)
        return subprocess.CompletedProcess(command.args, command.returncode, stdout, stderr)

    def train(self, job: Path, reference: str, target: Path) -> None:
        """Trains the job to its end and pulls its checkpoint; the folder is there whole or not at all."""
        submitted = self.run("job", "submit", "-f", job)
        if submitted.returncode != 0:
            raise RuntimeError(submitted.stderr.strip())
        job_id = submitted.stdout.strip()
        waited = self.run("job", "wait", job_id, "--timeout", f"{JOB_SECONDS}s")
        if waited.returncode != 0:
            raise RuntimeError(f"{job_id}: {waited.stderr.strip() or waited.stdout.strip()}")
        partial = target.with_name(target.name + ".partial")
        pulled = self.run("checkpoint", "pull", reference, partial)
        if pulled.returncode != 0:
            raise RuntimeError(f"{job_id}: {pulled.stderr.strip()}")
        partial.rename(target)
