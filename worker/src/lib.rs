//! The worker: an agent per node that talks to the coordinator, and a process per rank that trains.
//!
//! The agent is asynchronous and calls no libtorch; a rank is blocking and knows no gRPC. They
//! speak the messages of [`ipc`] over a Unix socket.
#![forbid(unsafe_code)]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "shapes and source tags stand in brackets"
)]

pub mod agent;
pub mod args;
pub mod eval;
pub mod ipc;
pub mod rank;
