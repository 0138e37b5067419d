//! Handles of operations in flight.

use std::marker::PhantomData;
use std::time::Duration;

use tch::Tensor;

use crate::error::CollectiveError;

/// What an engine waits for. Dropped without a wait, it lets the operation run on by itself.
pub(crate) trait Pending: Send {
    fn wait(self: Box<Self>, deadline: Duration) -> Result<(), CollectiveError>;
}

/// An operation in flight. It borrows its tensors, so that nobody reads them before the end.
///
/// Dropped without a wait, or after a wait that failed, the operation may still write to its
/// tensors for a while; their memory stays alive, their values mean nothing.
#[must_use = "the tensors hold the result only after the wait"]
pub struct Work<'t> {
    pending: Option<Box<dyn Pending>>,
    guard: Option<Box<dyn Send>>,
    tensors: PhantomData<&'t mut Tensor>,
}

impl Work<'_> {
    pub(crate) fn pending(pending: impl Pending + 'static) -> Self {
        Self {
            pending: Some(Box::new(pending)),
            guard: None,
            tensors: PhantomData,
        }
    }

    pub(crate) fn done() -> Self {
        Self {
            pending: None,
            guard: None,
            tensors: PhantomData,
        }
    }

    /// Drops `guard` once the wait has ended, or with the work.
    pub fn holding(self, guard: impl Send + 'static) -> Self {
        Self {
            guard: Some(Box::new(guard)),
            ..self
        }
    }

    /// Blocks until the result is there, at most for `deadline`.
    ///
    /// # Errors
    /// [`CollectiveError::Timeout`], [`CollectiveError::PeerLost`], [`CollectiveError::Aborted`] or
    /// [`CollectiveError::Engine`]. The group is failed from then on.
    pub fn wait(self, deadline: Duration) -> Result<(), CollectiveError> {
        let waited = match self.pending {
            Some(pending) => pending.wait(deadline),
            None => Ok(()),
        };
        drop(self.guard);
        waited
    }
}
