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
pub mod bench;
pub mod eval;
mod flips;
pub mod ipc;
pub mod latency_table;
pub mod rank;
mod turns;
