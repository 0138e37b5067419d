//! Checkpoint folders as others read them: small ones of every family are kept in
//! `python/tests/checkpoints`, each with images and what the model computes for them.
// The exemption for tests does not reach their helpers.
#![allow(non_snake_case, clippy::expect_used, clippy::unwrap_used)]

mod kept;
mod onnx;
mod stored;
