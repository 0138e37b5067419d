"""Runs the experiments and writes their report. `make experiments` calls it; it can be stopped and started again."""

import argparse
import copy
import json
import platform
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import data
import report
import tables
import tomli_w
from service import Service

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TABLES = ("dense", "policies", "methods", "frontier", "recipes")


def job(run: tables.Run, source: Path, cache: Path, scale: float) -> dict:
    """The job file of a run. `scale` stretches every stage."""
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
    folder = str(data.folder(run.data, source, cache))
    document["data"] |= {"train": folder, "validation": folder}
    document["train"]["seed"] = run.seed
    document["name"] = document["publish"]["name"] = run.name
    return document


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


def train_all(runs: list[tables.Run], arguments: argparse.Namespace, state: Path) -> None:
    """Trains the runs that have no checkpoint yet, as many at a time as there are workers."""
    missing = [run for run in runs if not (state / run.name).exists()]
    print(f"{len(runs) - len(missing)} of {len(runs)} runs are there", file=sys.stderr)
    if not missing:
        return
    jobs = state / "jobs"
    jobs.mkdir(parents=True, exist_ok=True)
    for run in missing:
        document = job(run, arguments.data, state, arguments.scale)
        (jobs / f"{run.name}.toml").write_text(tomli_w.dumps(document))
    with Service(arguments.programs, state / "service", arguments.workers) as service:
        started = time.monotonic()

        def train(run: tables.Run) -> tables.Run:
            service.train(jobs / f"{run.name}.toml", f"{run.name}:latest", state / run.name)
            return run

        with ThreadPoolExecutor(arguments.workers) as pool:
            futures = [pool.submit(train, run) for run in missing]
            try:
                for done, future in enumerate(as_completed(futures), start=1):
                    run = future.result()
                    left = (time.monotonic() - started) / done * (len(missing) - done)
                    accuracy = card(state / run.name)["accuracy"]["per_sample"]
                    print(f"{run.name}: {accuracy:.4f}  [{done}/{len(missing)}, {left / 60:.0f} min left]", file=sys.stderr)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
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
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--rows", nargs="+", help="only these rows")
    arguments = parser.parse_args()
    runs = [
        run
        for run in tables.all_runs(arguments.tables)
        if run.seed <= arguments.seeds and (arguments.rows is None or run.row in arguments.rows)
    ]
    if not runs:
        parser.error("no run has these rows")
    # A run of another length is another run.
    state = arguments.state / f"scale-{arguments.scale:g}"
    train_all(runs, arguments, state)
    cards = [(run, card(state / run.name)) for run in runs]
    about = {
        "commit": commit(),
        "machine": f"{machine()}, {arguments.workers} cores, no GPU",
        "command": f"make experiments ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else "make experiments",
    }
    report.write(arguments.out, cards, about)
    print(arguments.out / "report.md")


if __name__ == "__main__":
    main()
