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
    tensors: PhantomData<&'t mut Tensor>,
}

impl Work<'_> {
    pub(crate) fn pending(pending: impl Pending + 'static) -> Self {
        Self {
            pending: Some(Box::new(pending)),
            tensors: PhantomData,
        }
    }

    pub(crate) fn done() -> Self {
        Self {
            pending: None,
            tensors: PhantomData,
        }
    }

    /// Blocks until the result is there, at most for `deadline`.
    ///
    /// # Errors
    /// [`CollectiveError::Timeout`], [`CollectiveError::PeerLost`], [`CollectiveError::Aborted`] or
    /// [`CollectiveError::Engine`]. The group is failed from then on.
    pub fn wait(self, deadline: Duration) -> Result<(), CollectiveError> {
        match self.pending {
            Some(pending) => pending.wait(deadline),
            None => Ok(()),
        }
    }
}
