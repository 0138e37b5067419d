//! The worker: an agent per node that talks to the coordinator, and a process per rank that trains.
//!
//! The agent is asynchronous and calls no libtorch; a rank is blocking and knows no gRPC. They
//! speak the messages of [`ipc`] over a Unix socket.
#![forbid(unsafe_code)]
// Names of tensors end in their shape; the legend is that of `espalier_vit`.
#![allow(non_snake_case)]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "shapes and source tags stand in brackets"
)]

pub mod agent;
pub mod args;
#[cfg(feature = "rank")]
pub mod bench;
#[cfg(feature = "rank")]
pub mod eval;
#[cfg(feature = "rank")]
mod flips;
pub mod ipc;
#[cfg(feature = "rank")]
pub mod latency_table;
#[cfg(feature = "rank")]
pub mod rank;
#[cfg(feature = "rank")]
mod turns;
