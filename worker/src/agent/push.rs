//! Pushes the checkpoints that rank 0 hands over.

use std::path::Path;
use std::time::Duration;

use espalier_job::Job;
use espalier_proto::v1::StepCommit;
use espalier_registry::{
    Alias, ClientError, Digest, Expected, Kind, Lineage, PublishRequest, blocking,
};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::backoff;
use super::coordinators::Coordinators;
use super::key::GangKey;
use crate::ipc::CheckpointKind;

/// How long a coordinator that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why a checkpoint is not in the registry.
#[derive(Debug, Error)]
pub(super) enum PushError {
    /// The gang's generation is not the job's any more.
    #[error("the gang was superseded: {0}")]
    Stale(ClientError),
    /// It cannot be pushed.
    #[error("it could not be pushed: {0}")]
    Failed(ClientError),
}

/// Pushes checkpoints of one gang.
#[derive(Clone, Debug)]
pub(super) struct Pusher {
    coordinators: Coordinators,
    gang: GangKey,
    model_name: String,
    model_alias: String,
    seed: u64,
    parent: Option<Digest>,
    teacher: Option<Digest>,
}

impl Pusher {
    pub(super) fn new(
        coordinators: &Coordinators,
        gang: &GangKey,
        job: &Job,
        teacher: Option<Digest>,
    ) -> Self {
        Self {
            coordinators: coordinators.clone(),
            gang: gang.clone(),
            model_name: job.publish.name.clone(),
            model_alias: job.publish.alias.clone(),
            seed: job.train.seed,
            parent: None,
            teacher,
        }
    }

    /// From now on checkpoints are of this gang.
    pub(super) fn advance(&mut self, gang: &GangKey) {
        self.gang = gang.clone();
    }

    /// Generation of the gang.
    pub(super) fn generation(&self) -> u64 {
        self.gang.generation
    }

    /// The next checkpoint comes after `digest`.
    pub(super) fn follow(&mut self, digest: &str) {
        self.parent = digest.parse().ok();
    }

    /// Pushes and publishes the folder, then removes it; tries again while the registry is away.
    /// Returns the checkpoint's digest.
    pub(super) async fn push(
        &self,
        step: u64,
        dir: &Path,
        kind: CheckpointKind,
    ) -> Result<String, PushError> {
        let request = self.request(step, kind);
        let give_up = Instant::now() + PATIENCE;
        let mut attempt = 0;
        let digest = loop {
            let asked = self.coordinators.current();
            let error = match self.attempt_at(&asked, dir, &request).await {
                Ok(digest) => break digest,
                Err(error) => error,
            };
            if !self.coordinators.leave_after(&asked, &error) || Instant::now() >= give_up {
                return Err(sort(error));
            }
            tracing::warn!(gang = %self.gang, step, %error, "push is tried again");
            sleep(backoff::delay(attempt, self.gang.generation)).await;
            attempt += 1;
        };
        let pushed = dir.to_owned();
        if let Err(error) = blocking(move || std::fs::remove_dir_all(pushed)).await {
            tracing::warn!(path = %dir.display(), %error, "pushed folder could not be removed");
        }
        Ok(digest)
    }

    async fn attempt_at(
        &self,
        coordinator: &str,
        dir: &Path,
        request: &PublishRequest,
    ) -> Result<String, ClientError> {
        let client = self.coordinators.registry(coordinator).await?;
        client.push(dir, request, |_, _| {}).await
    }

    fn request(&self, step: u64, kind: CheckpointKind) -> PublishRequest {
        let GangKey { job_id, generation } = &self.gang;
        let is_model = kind == CheckpointKind::Model;
        let (name, alias, kind) = match kind {
            CheckpointKind::Training => (format!("job-{job_id}"), "latest", Kind::Training),
            CheckpointKind::Model => {
                let name = self.model_name.clone();
                (name, self.model_alias.as_str(), Kind::Model)
            }
        };
        PublishRequest {
            alias: Some(Alias {
                name: alias.to_owned(),
                expected: Expected::Any,
                reason: format!("step {step} of job {job_id}"),
            }),
            lineage: Lineage {
                job: Some(job_id.clone()),
                generation: Some(*generation),
                step: Some(step),
                parent: self.parent,
                teacher: self.teacher,
                seed: Some(self.seed),
            },
            commit: Some(StepCommit {
                job_id: job_id.clone(),
                generation: *generation,
                step,
                r#final: is_model,
            }),
            // The same publish after a lost answer is answered as the first time.
            request_id: Some(format!(
                "{job_id}-{generation}-{step}-{}",
                if is_model { "model" } else { "training" }
            )),
            actor: format!("job {job_id}"),
            ..PublishRequest::new(name, kind)
        }
    }
}

fn sort(error: ClientError) -> PushError {
    match error.reason().as_deref() {
        Some("STALE_GENERATION") => PushError::Stale(error),
        _ => PushError::Failed(error),
    }
}
