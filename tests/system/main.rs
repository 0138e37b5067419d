//! The whole system, as its users run it: real processes, real images, real kills.
#![forbid(unsafe_code)]
// The exemption for tests does not reach their helpers.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod absences;
mod bad_input;
mod end_to_end;
mod invariance;
mod kills;
mod leaders;
mod recovery;
mod registry;
mod resume;
mod sharing;
mod stragglers;
mod trust;
