//! The interface that the trainer sees.

use std::time::Duration;

use tch::Tensor;

use crate::error::CollectiveError;
use crate::work::Work;

/// A rank's place in its group.
#[derive(Clone, Debug)]
pub struct Membership {
    /// This rank, in `0..world_size`.
    pub rank: u32,
    /// Number of ranks in the group.
    pub world_size: u32,
    /// Keeps groups that share a rendezvous apart, such as `job/generation`; never reused.
    pub prefix: String,
    /// Host name or address of the interface that this rank talks to its peers over.
    pub host: String,
    /// The most that connecting takes and, after that, that the engine spends on one operation
    /// whose peers are silent. A wait's own deadline may be shorter.
    pub timeout: Duration,
}

/// The operations of a group of ranks. Every rank calls the same operations in the same order.
///
/// Tensors are contiguous, of f32, f64 or bf16, and on the engine's device; anything else is
/// [`CollectiveError::Tensor`]. After any other error the group is failed for good: all that is
/// left is to drop it.
pub trait Collective: Send + Sync {
    /// This rank, in `0..world_size`.
    fn rank(&self) -> u32;

    /// Number of ranks in the group.
    fn world_size(&self) -> u32;

    /// Starts replacing `tensor`, of any shape, by its sum over the ranks. All ranks get the same
    /// bits.
    ///
    /// # Errors
    /// [`CollectiveError::Tensor`], [`CollectiveError::Aborted`] or [`CollectiveError::Engine`];
    /// what happens later is the result of [`Work::wait`].
    fn all_reduce_sum<'t>(&self, tensor: &'t mut Tensor) -> Result<Work<'t>, CollectiveError>;

    /// Starts replacing `tensor`, of any shape, by that of the rank `root`.
    ///
    /// # Errors
    /// As [`Collective::all_reduce_sum`].
    fn broadcast<'t>(&self, tensor: &'t mut Tensor, root: u32)
    -> Result<Work<'t>, CollectiveError>;

    /// Starts filling `output`, of shape `[world_size, ..input's shape]`, with every rank's `input`
    /// in the order of the ranks.
    ///
    /// # Errors
    /// As [`Collective::all_reduce_sum`].
    fn all_gather<'t>(
        &self,
        input: &'t Tensor,
        output: &'t mut Tensor,
    ) -> Result<Work<'t>, CollectiveError>;

    /// Starts a work that ends when every rank has started it.
    ///
    /// # Errors
    /// As [`Collective::all_reduce_sum`].
    fn barrier(&self) -> Result<Work<'static>, CollectiveError>;

    /// Fails the group: waits in progress on other threads return [`CollectiveError::Aborted`] at
    /// once, and so does every later call. Only the first call counts, and its reason is kept.
    fn abort(&self, reason: &str);
}
