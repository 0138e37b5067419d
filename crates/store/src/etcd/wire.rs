//! Generated from `proto/etcd.proto`.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::enum_variant_names
)]

tonic::include_proto!("etcdserverpb");
