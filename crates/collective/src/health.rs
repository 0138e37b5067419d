//! Whether a group still works: the first reason against it wins and stays.

use std::sync::OnceLock;

use crate::error::{CollectiveError, Operation};

#[derive(Debug, Default)]
pub(crate) struct Health {
    failure: OnceLock<String>,
}

impl Health {
    /// True for the one call that failed the group.
    pub(crate) fn fail(&self, reason: &str) -> bool {
        self.failure.set(reason.to_owned()).is_ok()
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(crate) fn check(&self, operation: Operation, rank: u32) -> Result<(), CollectiveError> {
        match self.failure() {
            None => Ok(()),
            Some(reason) => Err(CollectiveError::Aborted {
                operation,
                rank,
                reason: reason.to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let health = Health::default();
        assert_eq!(health.check(Operation::Barrier, 3), Ok(()));
        assert!(health.fail("revoked"));
        assert!(!health.fail("something later"));
        assert_eq!(
            health
                .check(Operation::Barrier, 3)
                .map_err(|e| e.to_string()),
            Err("barrier on rank 3: the group was aborted: revoked".to_owned())
        );
    }
}
