//! What is wrong is said early, with its place, and nothing half-done stays.

mod commands;
mod fields;
mod files;
mod images;
mod publish;
mod rpcs;
