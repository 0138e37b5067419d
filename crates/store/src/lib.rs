//! The state of a deployment: a key-value store shaped like etcd.
//!
//! Every transaction that changes something gets the next [`Revision`]; compares on revisions make
//! transactions conditional; watches resume from a revision; keys attached to a lease vanish with it.
//! Reads are on [`Store`]. Writes are only on [`Leader`], which adds its fence to every transaction,
//! so that a write by a leader that has been replaced cannot happen.
//!
//! [`Store::open`] keeps everything in one file (redb). An answer to a write is given after its fsync.
//! [`Store::connect_etcd`] keeps it in an etcd cluster, for several coordinators of which one leads.
#![forbid(unsafe_code)]

mod backend;
mod clock;
#[cfg(test)]
mod conformance;
mod embedded;
mod error;
mod etcd;
mod leader;
mod range;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;
mod store;
mod txn;
mod watch;

pub use backend::Limits;
pub use clock::{Clock, ManualClock, MonotonicClock};
pub use embedded::Options;
pub use error::StoreError;
pub use etcd::{EtcdOptions, EtcdTls, EtcdUser};
pub use leader::Leader;
pub use range::{Page, Range};
pub use store::{LeaseId, Store};
pub use txn::{Compare, Entry, Op, Outcome, Revision, Txn};
pub use watch::{Change, Changes, Watch};

/// Longest key, in bytes.
pub const MAX_KEY: usize = 512;

/// Largest value, in bytes.
pub const MAX_VALUE: usize = 1 << 20;

/// Most entries in a page.
pub const MAX_PAGE: usize = 1000;
