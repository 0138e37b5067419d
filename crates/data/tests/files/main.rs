//! Data sets in files: known ones, damaged ones, and loading ahead.
// The exemption for tests does not reach their helpers.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod damaged;
mod foreign;
mod known;
mod loader;
mod mutated;
mod parquet;
mod shards;
mod skipped;
mod written;
