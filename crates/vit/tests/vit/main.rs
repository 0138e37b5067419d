//! The model against PyTorch's, against its own sliced form, and against itself over batches.
// The exemption for tests does not reach their helpers.
#![allow(non_snake_case, clippy::expect_used, clippy::unwrap_used)]

mod budgets;
mod common;
mod distillation;
mod import;
mod latency;
mod layout;
mod modes;
mod precision;
mod pruning;
mod reference;
mod resource;
mod weights;
