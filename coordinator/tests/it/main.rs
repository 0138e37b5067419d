//! A coordinator in this process, on a free port, with workers that follow a script over real gRPC.
#![forbid(unsafe_code)]
// The exemption for tests does not reach their helpers.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod auth;
mod bench;
mod jobs;
mod kill;
mod life;
mod recover;
mod restart;
mod schedule;
mod serving;
mod sessions;
mod tls;
