"""Fetches checkpoints from an Espalier registry, verified.

    import espalier_registry

    with espalier_registry.connect("localhost:7878") as registry:  # or connect("HOST:7878", token=..., ca="ca.pem")
        checkpoint = registry.pull("my-model:best", "folder")
        print(checkpoint.digest, checkpoint.report["accuracy"]["per_sample"])
        for found in registry.list(where="accuracy.per_sample > 0.9"):
            print(found.name, found.digest, found.aliases)

The interface is learnt by reflection, so no generated code is needed. Nothing the registry says is believed: the manifest
must have the digest that names the checkpoint, and every chunk its own before it is written.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import zstandard
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

MANIFEST_VERSION = 2
MAX_CHUNK = 4 << 20
MAX_MANIFEST = 1 << 20
MAX_MESSAGE = 5 << 20
BATCH = 1024
SECONDS = 120.0


class RegistryError(Exception):
    """What the registry gave is not what was asked for, or it refused."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a file."""

    digest: str
    size: int


@dataclass(frozen=True)
class File:
    """A file of a checkpoint."""

    path: str
    size: int
    media_type: str
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, as its verified manifest says."""

    name: str
    digest: str
    kind: str
    files: tuple[File, ...]
    lineage: dict[str, Any]
    report: dict[str, Any] | None


@dataclass(frozen=True)
class Listed:
    """A checkpoint in a list, as the registry says."""

    name: str
    digest: str
    aliases: tuple[str, ...]
    labels: dict[str, str]
    kind: str
    size: int
    job: str
    step: int


def connect(
    address: str,
    token: str | None = None,
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
) -> Registry:
    """A registry at `host:port`.

    `token` is what `espalier token create` printed; ESPALIER_TOKEN if it is not given. `ca` is the PEM file of the
    authority that signed the registry's certificate: the connection is encrypted then. `cert` and `key` are the PEM files
    of this client's certificate, where the registry asks for one.

    Errors: RegistryError when nobody answers there; OSError when a file cannot be read.
    """
    return Registry(address, token, ca, cert, key)


class Registry:
    """A connection to a registry. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        address: str,
        token: str | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
    ) -> None:
        token = token or os.environ.get("ESPALIER_TOKEN")
        if token and ca is None and not _is_loopback(address):
            raise RegistryError(f"the token is not sent to {address} without encryption: pass ca")
        self._metadata = [("authorization", f"Bearer {token.strip()}")] if token else []
        options = [("grpc.max_receive_message_length", MAX_MESSAGE)]
        if ca is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            own = [None if path is None else Path(path).read_bytes() for path in (ca, key, cert)]
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*own), options=options)
        try:
            pool = DescriptorPool(ProtoReflectionDescriptorDatabase(self._channel))
            self._service = pool.FindServiceByName("espalier.v1.RegistryService")
        except (grpc.RpcError, KeyError) as error:
            self._channel.close()
            raise RegistryError(f"no registry answers at {address}: {error}") from error

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def get(self, reference: str, lease: str = "") -> Checkpoint:
        """Looks up `name:alias`, `name@sha256:...`, `sha256:...` or `name`; verifies the manifest."""
        answer = self._call("GetCheckpoint", reference=reference, lease=lease)
        digest = _digest(answer.manifest)
        if digest != answer.checkpoint.digest or ("sha256:" in reference and not reference.endswith(digest)):
            raise RegistryError(f"the manifest of {reference} has digest {digest}, not {answer.checkpoint.digest}")
        return _checkpoint(answer.manifest, digest)

    def list(self, name: str = "", where: str = "", training: bool = False) -> Iterator[Listed]:
        """Checkpoints, newest first; `where` is a condition as in docs/registry.md."""
        token = ""
        while True:
            page = self._call(
                "ListCheckpoints", name=name, filter=where, include_training=training, page_token=token, page_size=500
            )
            for c in page.checkpoints:
                yield Listed(
                    c.name, c.digest, tuple(c.aliases), dict(c.labels), c.kind, c.size, c.job_id, c.step
                )
            token = page.next_page_token
            if not token:
                return

    def pull(
        self, reference: str, folder: str | Path, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Checkpoint:
        """Fetches a checkpoint into a folder that is not there yet; nothing is in place until all is verified.

        `progress` is told of bytes done and bytes in all.
        """
        folder = Path(folder)
        if folder.exists():
            raise RegistryError(f"{folder} is there already: choose another")
        lease = str(uuid.uuid4())
        checkpoint = self.get(reference, lease)
        partial = folder.with_name(f"{folder.name}.partial-{lease}")
        partial.mkdir(parents=True)
        try:
            done, total = 0, sum(file.size for file in checkpoint.files)
            for file in checkpoint.files:
                path = partial / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as out:
                    for data in self._chunks(file, lease):
                        out.write(data)
                        done += len(data)
                        progress(done, total)
                    out.flush()
                    os.fsync(out.fileno())
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial)
            raise
        finally:
            self._call("ReleaseLease", lease=lease)
        return checkpoint

    def _chunks(self, file: File, lease: str) -> Iterator[bytes]:
        """The verified bytes of a file, a chunk at a time."""
        for batch in _batches(file.chunks):
            wanted = [{"digest": chunk.digest, "size": chunk.size} for chunk in batch]
            answer = self._call("ReadChunks", chunks=wanted, lease=lease)
            if len(answer.chunks) != len(batch):
                raise RegistryError(f"{file.path}: {len(answer.chunks)} of {len(batch)} chunks came")
            for chunk, got in zip(batch, answer.chunks):
                yield _unpack(chunk, got.encoding, got.data, file.path)

    def _call(self, method: str, **fields: Any) -> Message | Any:
        described = self._service.methods_by_name[method]
        answer = GetMessageClass(described.output_type)
        rpc = self._channel.unary_unary(
            f"/{self._service.full_name}/{method}", lambda message: message.SerializeToString(), answer.FromString
        )
        try:
            message = GetMessageClass(described.input_type)(**fields)
            return rpc(message, timeout=SECONDS, metadata=self._metadata)
        except grpc.RpcError as error:
            raise RegistryError(f"{method}: {error.details()} ({error.code().name})") from error


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _unpack(chunk: Chunk, encoding: int, data: bytes, path: str) -> bytes:
    """The bytes of a chunk; never more than it says it has."""
    if encoding == 1:
        try:
            # One byte more than it may be would be noticed; a bomb is not unpacked.
            reader = zstandard.ZstdDecompressor(max_window_size=2 * MAX_CHUNK).stream_reader(data)
            data = reader.read(chunk.size + 1)
        except zstandard.ZstdError as error:
            raise RegistryError(f"{path}: chunk {chunk.digest} cannot be unpacked: {error}") from error
    if len(data) != chunk.size or _digest(data) != chunk.digest:
        raise RegistryError(f"{path}: chunk {chunk.digest} is not what it should be; `espalier registry fsck` says more")
    return data


def _batches(chunks: tuple[Chunk, ...]) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if batch and (size + chunk.size > MAX_CHUNK or len(batch) == BATCH):
            yield batch
            batch, size = [], 0
        batch.append(chunk)
        size += chunk.size
    if batch:
        yield batch


def _checkpoint(manifest: bytes, digest: str) -> Checkpoint:
    if len(manifest) > MAX_MANIFEST:
        raise RegistryError(f"the manifest has {len(manifest)} bytes, more than {MAX_MANIFEST}")
    try:
        content = json.loads(manifest)
        if content["espalier"] != MANIFEST_VERSION:
            raise RegistryError(
                f"the manifest is of version {content['espalier']}, this program knows {MANIFEST_VERSION}"
            )
        files = tuple(_file(file) for file in content["files"])
        paths = {file.path.lower() for file in files}
        if len(paths) != len(files):
            raise RegistryError("the manifest has a file twice, or two that differ only in their case")
        return Checkpoint(content["name"], digest, content["kind"], files, content["lineage"], content["report"])
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise RegistryError(f"the manifest is not what it should be: {error!r}") from error


def _file(entry: dict[str, Any]) -> File:
    path = entry["path"]
    parts = path.split("/")
    plain = all(c == " " or "!" <= c <= "~" or (c > "~" and c.isalnum()) for c in path)
    if not plain or "\\" in path or ":" in path or any(part in ("", ".", "..") for part in parts):
        raise RegistryError(f"path {path!r} could lead out of the folder")
    chunks = tuple(Chunk(chunk["digest"], chunk["size"]) for chunk in entry["chunks"])
    if any(not 0 < chunk.size <= MAX_CHUNK for chunk in chunks) or sum(c.size for c in chunks) != entry["size"]:
        raise RegistryError(f"{path}: its chunks are not its size")
    return File(path, entry["size"], entry["media_type"], chunks)
