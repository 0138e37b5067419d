"""A client that knows nothing but an address: client.py HOST:PORT JOB-FILE.

It learns the interface by reflection, submits the job, watches it to its end, fetches the model and
checks the digests of chunks.
"""

import hashlib
import json
import sys
import uuid

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SECONDS = 240


class Service:
    """The methods of one service, made from its descriptor."""

    def __init__(self, channel: grpc.Channel, pool: DescriptorPool, name: str) -> None:
        self.channel = channel
        self.descriptor = pool.FindServiceByName(name)

    def call(self, method: str, **fields):
        described = self.descriptor.methods_by_name[method]
        path = f"/{self.descriptor.full_name}/{method}"
        make = self.channel.unary_stream if described.server_streaming else self.channel.unary_unary
        answer = GetMessageClass(described.output_type)
        rpc = make(path, lambda message: message.SerializeToString(), answer.FromString)
        return rpc(GetMessageClass(described.input_type)(**fields), timeout=SECONDS)


def main(address: str, job_file: str) -> None:
    channel = grpc.insecure_channel(address)
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    jobs = Service(channel, pool, "espalier.v1.JobService")
    registry = Service(channel, pool, "espalier.v1.RegistryService")
    health = Service(channel, pool, "grpc.health.v1.Health")

    with open(job_file, encoding="utf-8") as file:
        spec = file.read()
    request_id = str(uuid.uuid4())
    job = jobs.call("SubmitJob", request_id=request_id, spec_toml=spec).job
    again = jobs.call("SubmitJob", request_id=request_id, spec_toml=spec).job
    assert again.job_id == job.job_id, "a repeated submit made a second job"

    cursor = 0
    for item in jobs.call("WatchJob", job_id=job.job_id):
        assert item.cursor == cursor + 1, f"cursor {item.cursor} after {cursor}"
        cursor = item.cursor
    job = jobs.call("GetJob", job_id=job.job_id).job

    found = registry.call("GetCheckpoint", reference=job.published_digest)
    digest = "sha256:" + hashlib.sha256(found.manifest).hexdigest()
    assert digest == job.published_digest, "the manifest does not have its digest"
    files = json.loads(found.manifest)["files"]
    for file in files:
        for chunk in file["chunks"]:
            (read,) = registry.call("ReadChunks", chunks=[chunk]).chunks
            # Chunks that do not compress are sent as they are; the others are the Python client's to test.
            if read.encoding == 0:
                actual = "sha256:" + hashlib.sha256(read.data).hexdigest()
                assert (actual, len(read.data)) == (chunk["digest"], chunk["size"]), file["path"]

    state = pool.FindEnumTypeByName("espalier.v1.JobState").values_by_number[job.state].name
    status = health.call("Check", service="espalier.v1.JobService")
    print(
        json.dumps(
            {
                "state": state,
                "digest": digest,
                "files": [file["path"] for file in files],
                "health": status.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[status.status].name,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
