//! The registry of checkpoints: its service, and its client.
//!
//! Files are cut into chunks, each named by the SHA-256 of its bytes. A checkpoint is a [`Manifest`]
//! (canonical JSON) that lists files and their chunks; the SHA-256 of its bytes is the checkpoint's
//! identity. [`RegistryService`] keeps chunks in a folder or a bucket and everything else in the store; it
//! verifies what it takes. [`Client`] pushes and pulls folders, sends and fetches only what is not there yet, and
//! verifies everything it is given. [`MirrorService`] stands before another registry and keeps what was
//! asked for.
#![forbid(unsafe_code)]

mod blobs;
mod chunks;
mod client;
mod clock;
mod digest;
mod errors;
mod failpoint;
mod files;
mod filter;
mod gc;
mod hook;
mod manifest;
mod mirror;
mod objects;
mod pins;
mod records;
mod rules;
mod service;
mod signing;

#[cfg(test)]
mod crash_tests;

pub use blobs::Blobs;
#[cfg(any(test, fuzzing))]
pub use chunks::fuzzing;
pub use chunks::{ChunkId, MAX_CHUNK};
pub use client::{
    Alias, Client, ClientError, Expected, Fault, Found, Mirror, Moved, PublishRequest, Pulled,
    Pushed,
};
pub use clock::{Clock, SystemClock};
pub use digest::Digest;
pub use errors::{ERROR_DOMAIN, RegistryError};
pub use files::blocking;
pub use filter::{Filter, FilterError};
pub use hook::{HookPlan, NoJobs, PublishHook};
pub use manifest::{FileEntry, Kind, Lineage, MAX_FILES, MAX_MANIFEST, Manifest, ManifestError};
pub use mirror::{MirrorOptions, MirrorService};
pub use objects::{Bucket, Patience};
pub use service::{Admitted, Options, RegistryService, Visible, checkpoint_name};
pub use signing::{KeyError, PublicKey, SecretKey};
