//! The names that a message only points to: a digest's checkpoint, a job's model, a gang's workers.

use espalier_registry::{RegistryError, checkpoint_name};
use espalier_store::Store;

use crate::error::Error;
use crate::job::{JobId, Snapshot};

/// Name of the checkpoint that a reference means; `None` when there is none, or it is no reference,
/// which the registry will say.
pub(super) async fn of_checkpoint(store: &Store, reference: &str) -> Result<Option<String>, Error> {
    match checkpoint_name(store, reference).await {
        Ok(name) => Ok(name),
        Err(RegistryError::Store(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Name under which a job publishes; `None` when there is no such job.
pub(super) async fn of_job(store: &Store, id: &str) -> Result<Option<String>, Error> {
    let job = Snapshot::load(store, &JobId::new(id)).await?;
    Ok(job.map(|job| job.record.demand.publish_name))
}

/// The workers of a job's gang; none when this is not its generation, which the ledger will say.
pub(super) async fn of_gang(
    store: &Store,
    job: &str,
    generation: u64,
) -> Result<Vec<String>, Error> {
    let job = Snapshot::load(store, &JobId::new(job)).await?;
    let gang = job.as_ref().and_then(|job| job.current(generation));
    Ok(gang.map_or_else(Vec::new, |gang| gang.worker_ids()))
}
