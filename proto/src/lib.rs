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

/// Largest payload of a blob message on the wire, in bytes.
pub const BLOB_CHUNK: usize = 1 << 20;

/// Largest message either side accepts, in bytes: a chunk or a manifest, and its frame.
pub const MAX_MESSAGE: usize = 2 << 20;
