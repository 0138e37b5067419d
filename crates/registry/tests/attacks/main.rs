//! What an attacker may try against a registry, and a registry against its clients; docs/security.md
//! names each test beside its attack.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;

mod bombs;
mod confusion;
mod hostile;
mod links;
mod manifests;
mod names;
mod paths;
