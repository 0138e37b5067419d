//! What a gang's ranks start from: checkpoints of the registry, pulled into the gang's folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use espalier_job::{Init, Job};
use espalier_registry::{ClientError, Digest};
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::backoff;
use super::coordinators::Coordinators;
use crate::ipc::Fault;

/// How long a registry that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Folders of pulled checkpoints.
#[derive(Debug, Default)]
pub(super) struct Assets {
    /// The training checkpoint to go on from.
    pub(super) resume: Option<PathBuf>,
    /// The dense checkpoint to begin with.
    pub(super) init: Option<PathBuf>,
    /// The teacher.
    pub(super) teacher: Option<PathBuf>,
    /// Which checkpoint the teacher is.
    pub(super) teacher_digest: Option<Digest>,
}

/// What a gang's ranks begin with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beginning<'a> {
    /// The training checkpoint of this digest.
    Checkpoint(&'a str),
    /// The job's first step.
    First,
    /// What their peers give them.
    Peers,
}

/// Pulls what ranks that begin so need.
///
/// # Errors
/// Whose fault it is, and what is missing: a reference of the job file that does not exist is the
/// user's, everything else the machinery's.
pub(super) async fn fetch(
    coordinators: &Coordinators,
    beginning: Beginning<'_>,
    job: &Job,
    run_dir: &Path,
) -> Result<Assets, (Fault, String)> {
    let resume = match beginning {
        Beginning::Checkpoint(digest) => Some(digest),
        Beginning::First | Beginning::Peers => None,
    };
    // A job that goes on has its weights already.
    let init = match (&job.model.init, beginning) {
        (Init::Checkpoint(reference), Beginning::First) => Some(reference.as_str()),
        _ => None,
    };
    let distillation = job.train.distillation.as_ref();
    let teacher = distillation.map(|asked| asked.teacher.as_str());
    let pull = async |field: &str, reference: Option<&str>, folder: &str| match reference {
        None => Ok(None),
        Some(reference) => {
            let dir = run_dir.join(folder);
            let digest = pull(coordinators, reference, &dir)
                .await
                .map_err(|error| blame(&error, field, reference))?;
            Ok(Some((dir, digest)))
        }
    };
    let resume = pull("the last training checkpoint", resume, "resume")
        .await
        // The coordinator named it, not the user.
        .map_err(|(_, reason)| (Fault::Infrastructure, reason))?;
    let init = pull("model.init.checkpoint", init, "init").await?;
    let teacher = pull("train.distillation.teacher", teacher, "teacher").await?;
    let dir = |pulled: Option<(PathBuf, String)>| pulled.map(|(dir, _)| dir);
    Ok(Assets {
        resume: dir(resume),
        init: dir(init),
        teacher_digest: teacher.as_ref().and_then(|(_, digest)| digest.parse().ok()),
        teacher: dir(teacher),
    })
}

/// Returns the digest of the checkpoint.
async fn pull(
    coordinators: &Coordinators,
    reference: &str,
    dir: &Path,
) -> Result<String, ClientError> {
    let give_up = Instant::now() + PATIENCE;
    let mut attempt = 0;
    loop {
        let asked = coordinators.current();
        let pulled = match coordinators.registry(&asked).await {
            Ok(client) => client
                .pull(reference, dir, |_, _| {})
                .await
                .map(|pulled| pulled.digest),
            Err(error) => Err(error),
        };
        match pulled {
            Err(error) if coordinators.leave_after(&asked, &error) && Instant::now() < give_up => {
                tracing::warn!(reference, %error, "pull is tried again");
                sleep(backoff::delay(attempt, 0)).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

fn blame(error: &ClientError, field: &str, reference: &str) -> (Fault, String) {
    let fault = match error.code() {
        // A damaged chunk stays damaged however often it is read: a person has to restore it.
        Some(Code::NotFound | Code::InvalidArgument | Code::DataLoss) => Fault::User,
        _ => Fault::Infrastructure,
    };
    (fault, format!("{field}: {reference:?}: {error}"))
}
