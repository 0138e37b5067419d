//! The coordinator: accepts jobs, places them on workers, keeps them going, and serves the registry.
//!
//! [`run`] is all of it: one port with the services of `espalier.v1`, one folder with all state; or
//! the store in an etcd cluster and the folder shared, or a bucket, by several coordinators of which one
//! leads.
//! Decisions are pure functions ([`scheduler`], [`membership`], [`standing`], [`job::states`]) that give their
//! reasons; one task carries them out, each as one transaction of the store, and only then acts.
#![forbid(unsafe_code)]

mod api;
pub mod args;
mod auth;
mod auth_args;
mod blobs_place;
pub mod clock;
mod codec;
mod control;
mod error;
mod feed;
pub mod job;
mod keys;
mod ledger;
mod logs;
pub mod membership;
pub mod queue;
pub mod recruiting;
mod reports;
mod role;
pub mod scheduler;
mod server;
mod sessions;
pub mod stalls;
pub mod standing;
mod store_args;
mod term;
mod tls;
mod worker;

pub use auth::{AdminTokenError, AuditError, Auth, AuthOptions};
pub use blobs_place::PlaceError;
pub use error::Error;
pub use server::{
    BlobsOptions, Connection, Options, Secrets, ServeError, StoreOptions, run, run_on,
};
pub use tls::{TlsError, TlsFiles};
pub use worker::WorkerRecord;
