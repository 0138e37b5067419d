//! The registry of checkpoints: its service, and its client.
//!
//! A file is a blob named by its SHA-256. A checkpoint is a [`Manifest`] (canonical JSON) that lists
//! files; the SHA-256 of its bytes is the checkpoint's identity. [`RegistryService`] keeps blobs in a
//! folder and everything else in the store; it verifies what it takes and what it gives. [`Client`]
//! pushes and pulls folders, resumes, and verifies too.
#![forbid(unsafe_code)]

mod blobs;
mod client;
mod digest;
mod errors;
mod files;
mod hook;
mod manifest;
mod records;
mod rules;
mod service;

pub use blobs::Blobs;
pub use client::{Alias, Client, ClientError, Expected, Found, PublishRequest, Pulled};
pub use digest::Digest;
pub use errors::{ERROR_DOMAIN, RegistryError};
pub use hook::{HookPlan, NoJobs, PublishHook};
pub use manifest::{FileEntry, Kind, Lineage, MAX_FILES, MAX_MANIFEST, Manifest, ManifestError};
pub use service::RegistryService;
