//! Collectives between the ranks of a gang: all-reduce, broadcast, all-gather, barrier, abort.
//!
//! One trait, [`Collective`], and three engines: [`Solo`] for a gang of one, [`Gloo`] on CPU tensors
//! (the engine inside libtorch, reached by a C++ shim) and [`Nccl`] on CUDA tensors.
//!
//! A gang meets in a [`Rendezvous`]: rank 0 hosts it and makes its address known, the others join.
//! Calls are asynchronous and every wait has a deadline. A group whose wait has failed stays failed:
//! drop it and connect again, under another prefix, with whoever is left.
//!
//! All `unsafe` of the trainer's side lives here, behind this interface.

#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod bounded;
mod check;
mod collective;
mod device;
mod error;
mod ffi;
mod gloo;
mod health;
mod nccl;
mod rendezvous;
mod solo;
mod work;

pub use collective::{Collective, Membership};
pub use error::{CollectiveError, Operation, Peer};
pub use gloo::Gloo;
pub use nccl::{Nccl, load_cuda};
pub use rendezvous::Rendezvous;
pub use solo::Solo;
pub use work::Work;
