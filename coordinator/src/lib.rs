//! The coordinator: accepts jobs, places them on workers, keeps them going, and serves the registry.
//!
//! [`run`] is all of it: one port with the services of `espalier.v1`, one folder with all state; or
//! the store in an etcd cluster and the folder shared, by several coordinators of which one leads.
//! Decisions are pure functions ([`scheduler`], [`membership`], [`job::states`]) that give their
//! reasons; one task carries them out, each as one transaction of the store, and only then acts.
#![forbid(unsafe_code)]

mod api;
pub mod args;
mod blobs_folder;
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
pub mod recruiting;
mod reports;
mod role;
pub mod scheduler;
mod server;
mod sessions;
pub mod stalls;
mod store_args;
mod term;
mod worker;

pub use blobs_folder::FolderError;
pub use error::Error;
pub use server::{Connection, Options, ServeError, StoreOptions, run, run_on};
pub use worker::WorkerRecord;
