//! Checks a TOML document against the JSON schema of the types, so that the checks cannot drift from them.

mod check;
mod range;
mod suggest;
mod walk;

pub(crate) use check::{Checked, Checker};
pub(crate) use range::Range;
pub(crate) use walk::{kind, target};

use schemars::Schema;

/// The JSON schema of a job document.
pub fn schema() -> Schema {
    schemars::schema_for!(crate::Job)
}
