//! What is wrong is said early, with its place, and nothing half-done stays.

mod fields;
mod files;
mod rpcs;
