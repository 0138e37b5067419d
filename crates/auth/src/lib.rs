//! Who may do what: tokens, the scopes that they carry, and how a client shows who it is.
//!
//! A [`Token`] is a name and 256 random bits. The coordinator keeps its [`TokenHash`] and its
//! [`Scope`]s, such as `write:team-a-*`. A client has [`Access`]: its token, and whom it trusts.
#![forbid(unsafe_code)]

mod access;
pub mod hex;
mod scope;
mod token;

pub use access::{Access, AccessArgs, AccessError, Bearer};
pub use scope::{InvalidScope, Scope, Verb};
pub use token::{InvalidToken, MAX_NAME, Token, TokenHash, check_name};
