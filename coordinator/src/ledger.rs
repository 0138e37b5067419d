//! The job's ledger: which steps are durable. It is written by the very transaction that publishes
//! a checkpoint, and by nothing else.

use espalier_proto::v1::StepCommit;
use espalier_registry::{HookPlan, PublishHook};
use espalier_store::Store;
use tonic::{Status, async_trait};

use crate::clock::wall;
use crate::control::Handle;
use crate::error::Error;
use crate::job::{Edit, JobId, Snapshot, State, Trigger};

/// Extends the ledgers of jobs.
pub(crate) struct Ledger {
    store: Store,
    control: Handle,
}

/// Why steps are not committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// The gang has been replaced, or the job has ended.
    #[error(
        "commit.generation: generation {given} of job {job} is over (the job is {state}, its last generation is {last})"
    )]
    Stale {
        job: JobId,
        given: u64,
        last: u64,
        state: State,
    },
    /// A field does not fit the job.
    #[error("{field}: {problem}")]
    Argument {
        field: &'static str,
        problem: String,
    },
    /// Reading failed.
    #[error(transparent)]
    Inner(#[from] Error),
}

impl Ledger {
    pub(crate) fn new(store: Store, control: Handle) -> Self {
        Self { store, control }
    }

    async fn plan(
        &self,
        commit: &StepCommit,
        digest: &str,
        name: &str,
    ) -> Result<HookPlan, LedgerError> {
        let id = JobId::new(&commit.job_id);
        let job = Snapshot::load(&self.store, &id)
            .await?
            .ok_or_else(|| Error::NoSuchJob(id.clone()))?;
        let mut edit = Edit::of(job, wall());
        extend(&mut edit, commit, digest, name)?;
        let txn = edit.into_txn(&self.store).await?;
        let control = self.control.clone();
        Ok(HookPlan {
            compares: txn.compares,
            ops: txn.ops,
            wake: Some(Box::new(move |_| control.changed(id))),
        })
    }
}

#[async_trait]
impl PublishHook for Ledger {
    async fn prepare(
        &self,
        commit: &StepCommit,
        digest: &str,
        name: &str,
    ) -> Result<HookPlan, Status> {
        self.plan(commit, digest, name).await.map_err(Status::from)
    }

    async fn has_ended(&self, job: &str) -> Result<bool, Status> {
        let job = Snapshot::load(&self.store, &JobId::new(job)).await?;
        Ok(job.is_none_or(|job| job.record.state.is_terminal()))
    }
}

/// Extends the ledger from the last committed step to the checkpoint's; the model also ends the job.
fn extend(
    edit: &mut Edit,
    commit: &StepCommit,
    digest: &str,
    name: &str,
) -> Result<(), LedgerError> {
    let record = &edit.record;
    let stale = edit.current(commit.generation).is_none();
    #[cfg(feature = "mutants")]
    let stale = stale && !(espalier_mutants::is("stale-publish") && edit.gang().is_some());
    if stale {
        return Err(LedgerError::Stale {
            job: record.job_id.clone(),
            given: commit.generation,
            last: edit.generation(),
            state: record.state,
        });
    }
    check(edit, commit, digest, name)?;
    // The word that the ranks run may still be on its way.
    if record.state == State::Placing {
        edit.trigger(Trigger::Run, "a checkpoint of its ranks has arrived")
            .map_err(Error::from)?;
    }
    if commit.step > edit.record.committed_step {
        edit.commit_steps(commit.step, digest);
    }
    if commit.r#final {
        finish(edit, commit, digest).map_err(LedgerError::Inner)
    } else {
        digest.clone_into(&mut edit.record.checkpoint_digest);
        Ok(())
    }
}

fn finish(edit: &mut Edit, commit: &StepCommit, digest: &str) -> Result<(), Error> {
    if edit.record.state == State::Recovering {
        edit.trigger(Trigger::Run, "the model of its ranks has arrived")?;
    }
    if edit.record.state == State::Running {
        edit.trigger(Trigger::Trained, "all steps are done")?;
    }
    edit.record.total_steps = commit.step;
    edit.publish(digest, "the model is in the registry");
    edit.release();
    let reason = format!("published as {}", edit.record.demand.publish_name);
    edit.trigger(Trigger::Publish, &reason)?;
    Ok(())
}

fn check(edit: &Edit, commit: &StepCommit, digest: &str, name: &str) -> Result<(), LedgerError> {
    let record = &edit.record;
    let argument = |field, problem| Err(LedgerError::Argument { field, problem });
    let expected = if commit.r#final {
        record.demand.publish_name.clone()
    } else {
        format!("job-{}", record.job_id)
    };
    if name != expected {
        return argument(
            "name",
            format!("this job publishes as `{expected}`, not `{name}`"),
        );
    }
    let (step, committed, total) = (commit.step, record.committed_step, record.total_steps);
    let repeats = step == committed && (commit.r#final || digest == record.checkpoint_digest);
    if step == 0 || (step <= committed && !repeats) {
        return argument(
            "commit.step",
            format!("step {step} is not after the last committed step {committed}"),
        );
    }
    if total > 0 && step > total {
        return argument(
            "commit.step",
            format!("step {step} is beyond the job's last step {total}"),
        );
    }
    if commit.r#final && total > 0 && step != total {
        return argument(
            "commit.step",
            format!("the model is made at step {step}, before the job's last step {total}"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
