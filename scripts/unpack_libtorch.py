"""Unpacks the C++ part of libtorch for the CPU out of wheels: unpack_libtorch.py TARGET WHEEL..."""

import shutil
import sys
import zipfile
from pathlib import Path, PurePosixPath

# Everything that libtorch_cpu.so loads; the CUDA half of the wheels is ten times as large.
LIBRARIES = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}


def place(member: str) -> PurePosixPath | None:
    """Where a wheel's member goes below the target, or None when it is not needed."""
    path = PurePosixPath(member)
    if path.parts[:2] == ("torch", "include"):
        return path.relative_to("torch")
    if path.name in LIBRARIES and path.parent.name == "lib":
        return PurePosixPath("lib", path.name)
    return None


def unpack(target: Path, wheels: list[str]) -> None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                relative = place(member.filename)
                if relative is None or member.is_dir():
                    continue
                destination = target / relative
                destination.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, destination.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    missing = sorted(name for name in LIBRARIES if not (target / "lib" / name).is_file())
    if missing:
        sys.exit(f"the wheels hold no {', '.join(missing)}")


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), sys.argv[2:])
