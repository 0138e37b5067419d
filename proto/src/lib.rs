//! The wire types and services of `espalier.v1`, generated from `proto/espalier/v1`.
#![forbid(unsafe_code)]

/// Version 1 of the interface.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::doc_markdown
)]
pub mod v1 {
    tonic::include_proto!("espalier.v1");

    /// Encoded `FileDescriptorSet`, for the reflection service.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/espalier_descriptor.bin"));
}

/// Reason in the `ErrorInfo` of an answer by a coordinator that does not lead: ask the leader.
pub const NOT_LEADER: &str = "NOT_LEADER";

/// Name in its metadata of where the leader listens, as `host:port`; absent when nobody leads.
pub const LEADER: &str = "leader";

/// Where the leader listens, as `host:port`, when the answer is that of a coordinator that does not
/// lead; the inner `None` when it did not know.
pub fn not_leader(status: &tonic::Status) -> Option<Option<String>> {
    use tonic_types::StatusExt as _;
    let info = status.get_details_error_info()?;
    (info.reason == NOT_LEADER).then(|| info.metadata.get(LEADER).cloned())
}

/// Largest chunk of a file, and largest sum of the chunks of one message, in bytes.
pub const MAX_CHUNK: usize = 4 << 20;

/// Most chunks in a message that carries their bytes.
pub const MAX_BATCH: usize = 1024;

/// Largest message either side accepts, in bytes, except of the registry.
pub const MAX_MESSAGE: usize = 2 << 20;

/// Largest message of the registry, in bytes: a batch of chunks, their digests, and its frame.
pub const MAX_REGISTRY_MESSAGE: usize = 5 << 20;

/// Bytes that a server takes of a connection before they are read: of calls that wait for their turn no more
/// is in its memory. A link of 100 ms carries 20 MB/s with it.
pub const SERVER_WINDOW: u32 = 2 << 20;

/// Bytes of a connection that a client of the registry takes before they are read: two messages.
pub const CLIENT_WINDOW: u32 = 2 * MAX_REGISTRY_MESSAGE as u32;

/// Largest frame on a connection that carries chunks: of the transport's 16 KiB, one chunk is hundreds.
pub const MAX_FRAME: u32 = 1 << 20;
