//! What is removed: checkpoints by retention, chunks when nothing refers to them.

mod cycle;
mod retention;
mod sweep;

pub(crate) use retention::Policy;

#[cfg(test)]
mod tests;
