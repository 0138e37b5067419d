"""Runs the experiments and writes their report. `make experiments` calls it; it can be stopped and started again."""

import argparse
import copy
import hashlib
import json
import platform
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import data
import figures
import report
import tables
import tomli_w
from service import Service

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def job(run: tables.Run, images: Path, start: Path | None, scale: float) -> dict:
    """The job file of a run on a data set's folder. `scale` stretches every stage; `start` is the model that it begins with."""
    document = copy.deepcopy(tomllib.loads((HERE / "base.toml").read_text()))
    for path, value in run.fields.items():
        *parents, leaf = path.split(".")
        section = document
        for parent in parents:
            section = section.setdefault(parent, {})
        if value is None:
            section.pop(leaf, None)
        else:
            section[leaf] = copy.deepcopy(value)
    for stage in ("search", "tune"):
        if stage in document["compress"]:
            document["compress"][stage]["epochs"] *= scale
    if start:
        document["model"]["init"] = {"safetensors": str(start)}
    document["data"] |= {"train": str(images), "validation": str(images)}
    document["train"]["seed"] = run.seed
    document["name"] = document["publish"]["name"] = run.name
    return document


def identity(document: dict) -> str:
    """Jobs that differ in nothing but their name have the same."""
    rest = copy.deepcopy(document)
    del rest["name"], rest["publish"]["name"]
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def machine() -> str:
    """The processor's name, for the report."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def commit() -> str:
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def card(folder: Path) -> dict:
    """The report card of a run; of the data's place only the set's name, which is the same on every machine."""
    found = json.loads((folder / "report.json").read_text())
    found["dataset"]["validation"] = Path(found["dataset"]["validation"]).name
    return found


def by_kind(folder: Path, run: tables.Run, arguments: argparse.Namespace) -> dict:
    """What a checkpoint makes of the test images of each kind, of a data set that has kinds. Kept beside the run's folder."""
    if run.data != "varied":
        return {}
    path = folder.with_suffix(".kinds.json")
    if not path.exists():
        found = {}
        for kind in data.KINDS:
            name = f"{run.data}-{kind}"
            data.make(name, arguments.data, arguments.state / "data")
            command = [arguments.programs / "espalier", "eval", folder, "--data", arguments.state / "data" / name, "--output", "json"]
            found[kind] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        path.write_text(json.dumps(found))
    return {kind: {"accuracy": of["accuracy"], "effective_ratio": of["macs"]["effective_ratio"]} for kind, of in json.loads(path.read_text()).items()}


def origin(folder: Path) -> Path:
    """Beside a run's folder: which commit trained it, on what machine."""
    return folder.with_suffix(".json")


@dataclass(frozen=True)
class Planned:
    """A run, its job file and the folder of its checkpoint, which jobs that differ in nothing but their name share."""

    run: tables.Run
    document: dict
    folder: Path


def plan(run: tables.Run, state: Path, scale: float) -> Planned:
    start = tables.start(run)
    weights = plan(start, state, scale).folder / "model.safetensors" if start else None
    document = job(run, state / "data" / run.data, weights, scale)
    return Planned(run, document, state / "runs" / identity(document))


def train_all(planned: list[Planned], arguments: argparse.Namespace) -> None:
    """Trains the jobs that have no checkpoint yet, as many at a time as there are workers."""
    jobs: dict[Path, Planned] = {}
    for each in planned:
        jobs.setdefault(each.folder, each)
    missing = [each for folder, each in jobs.items() if not folder.exists()]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} jobs are there", file=sys.stderr)
    if not missing:
        return
    state = arguments.state
    files = state / "jobs"
    for folder in (files, state / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        data.make(each.run.data, arguments.data, state / "data")
        (files / f"{each.run.name}.toml").write_text(tomli_w.dumps(each.document))
    with Service(arguments.programs, state / "service", arguments.workers) as service:
        started, done = time.monotonic(), 0
        made = {"commit": commit(), "machine": f"{machine()}, {arguments.workers} cores, no GPU"}

        def train(each: Planned) -> Planned:
            origin(each.folder).write_text(json.dumps(made))
            service.train(files / f"{each.run.name}.toml", f"{each.run.name}:latest", each.folder)
            return each

        # What others start from goes first.
        for phase in (True, False):
            with ThreadPoolExecutor(arguments.workers) as pool:
                futures = [pool.submit(train, each) for each in missing if (tables.start(each.run) is None) == phase]
                try:
                    for future in as_completed(futures):
                        each, done = future.result(), done + 1
                        left = (time.monotonic() - started) / done * (len(missing) - done)
                        accuracy = card(each.folder)["accuracy"]["per_sample"]
                        print(f"{each.run.name}: {accuracy:.4f}  [{done}/{len(missing)}, {left / 60:.0f} min left]", file=sys.stderr)
                except BaseException:
                    # The pool waits for its threads, and they for the service.
                    pool.shutdown(wait=False, cancel_futures=True)
                    service.stop()
                    raise


def main() -> None:
    # Ends as Ctrl-C does, the service with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, default=ROOT / "target/release", help="folder of the three programs")
    parser.add_argument("--data", type=Path, default=ROOT / ".cache/data/fashion-mnist", help="folder of Fashion-MNIST")
    parser.add_argument("--state", type=Path, default=ROOT / ".cache/experiments", help="where runs are kept")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="where the report goes")
    parser.add_argument("--workers", type=int, default=2, help="jobs at a time, one core each")
    parser.add_argument("--scale", type=float, default=1.0, help="stretches every stage; the published report has 1")
    parser.add_argument("--seeds", type=int, default=len(tables.SEEDS), help="seeds of each run, the first so many")
    parser.add_argument("--tables", nargs="+", choices=tables.TABLES, default=tables.TABLES)
    parser.add_argument("--rows", nargs="+", help="only these rows")
    arguments = parser.parse_args()
    # Jobs name files of it.
    arguments.state = arguments.state.resolve()
    runs = [
        run
        for run in tables.all_runs(arguments.tables)
        if run.seed <= arguments.seeds and (arguments.rows is None or run.row in arguments.rows)
    ]
    if not runs:
        parser.error("no run has these rows")
    planned = [plan(run, arguments.state, arguments.scale) for run in runs]
    starts = [plan(start, arguments.state, arguments.scale) for start in map(tables.start, runs) if start]
    train_all(starts + planned, arguments)
    command = " ".join(["make experiments", *([f"ARGS='{' '.join(sys.argv[1:])}'"] if sys.argv[1:] else [])])
    found = [
        figures.Entry(
            each.run.table,
            each.run.row,
            each.run.seed,
            command,
            card=card(each.folder) | {"by_kind": by_kind(each.folder, each.run, arguments)},
            **json.loads(origin(each.folder).read_text()),
        )
        for each in planned
    ]
    report.write(arguments.out, found)
    print(arguments.out / "report.md")


if __name__ == "__main__":
    main()
