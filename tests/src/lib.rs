//! A real cluster for tests: the three programs as processes, real images, files in a folder that
//! goes with the test.
#![forbid(unsafe_code)]
// A harness may only panic: what it cannot do is a failed test.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc)]

mod cluster;
mod compare;
mod etcd;
mod feed;
mod images;
mod job;
mod programs;
mod ran;
mod s3;

pub use cluster::{Cluster, connected, is_end, leads, ranks_below};
pub use compare::{assert_close, assert_no_other_losses, assert_same_losses, weights};
pub use etcd::Etcd;
pub use feed::Feed;
pub use images::{as_cifar, as_folder, as_shards, subset};
pub use job::TinyJob;
pub use programs::{fresh_seed, program, repository, signal, start};
pub use ran::Ran;
pub use s3::S3;
