use espalier_proto::v1::StepCommit;
use espalier_store::{Compare, Op, Revision};
use tonic::{Status, async_trait};

/// What a job's ledger adds to the transaction that publishes its checkpoint.
#[derive(Default)]
pub struct HookPlan {
    /// Conditions, such as that the job's record is as it was read.
    pub compares: Vec<Compare>,
    /// Changes, such as the ledger's extension and its event.
    pub ops: Vec<Op>,
    /// Called once the transaction is durable, with its revision. Not called when it did not happen.
    pub wake: Option<Box<dyn FnOnce(Revision) + Send>>,
}

/// Takes part in the publishing of checkpoints that carry a [`StepCommit`].
#[async_trait]
pub trait PublishHook: Send + Sync + 'static {
    /// Decides whether the steps may be committed, and what to write. Called again, a bounded number
    /// of times, when a condition of the plan did not hold: it must read anew and must not act itself.
    ///
    /// `digest` is the checkpoint's (`sha256:...`), `name` the name it is published under.
    ///
    /// # Errors
    /// The status with which publishing is refused, such as ABORTED for a stale generation.
    async fn prepare(
        &self,
        commit: &StepCommit,
        digest: &str,
        name: &str,
    ) -> Result<HookPlan, Status>;

    /// Whether a job will not go on, so that only its last training checkpoint is of use. A job that is
    /// not known has ended.
    ///
    /// # Errors
    /// When that cannot be told; nothing of the job is removed then.
    async fn has_ended(&self, job: &str) -> Result<bool, Status>;
}

/// The hook of a registry that stands alone: it knows no jobs.
#[derive(Clone, Copy, Debug)]
pub struct NoJobs;

#[async_trait]
impl PublishHook for NoJobs {
    async fn prepare(&self, commit: &StepCommit, _: &str, _: &str) -> Result<HookPlan, Status> {
        Err(Status::failed_precondition(format!(
            "commit.job_id: this registry runs no jobs, so not `{}`",
            commit.job_id
        )))
    }

    async fn has_ended(&self, _: &str) -> Result<bool, Status> {
        Ok(true)
    }
}
