//! The messages of `onnx.proto`, and how the few that are used are made.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from onnx.proto"
)]

include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
