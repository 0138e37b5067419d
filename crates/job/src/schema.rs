//! Checks a TOML document against the JSON schema of the types, so that the checks cannot drift from them.

mod check;
mod range;
mod suggest;

pub(crate) use check::{Checked, Checker};

use schemars::Schema;

/// The JSON schema of a job document.
pub fn schema() -> Schema {
    schemars::schema_for!(crate::Job)
}
