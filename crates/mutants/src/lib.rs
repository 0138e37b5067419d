//! Which deliberately wrong variant of the product runs: each stands at the line that it breaks, under
//! the feature `mutants` of its crate, and is chosen by the environment. The simulation must catch them.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

/// Names the variant; without it the product is right.
pub const VARIABLE: &str = "ESPALIER_MUTANT";

/// Whether this variant was chosen.
pub fn is(name: &str) -> bool {
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok());
    chosen.as_deref() == Some(name)
}
