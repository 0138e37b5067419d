use espalier_proto::v1;
use espalier_store::{Entry, Revision, Store};

use super::record::wire;
use super::{Gang, JobId, Placed, Record};
use crate::codec::decode;
use crate::control::ATTEMPTS;
use crate::error::Error;
use crate::keys;

/// A job as read from the store.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    /// The record.
    pub(crate) record: Record,
    /// Revision of the record; 0 when it is still to be made.
    pub(crate) revision: Revision,
    /// The current gang and its generation.
    pub(crate) gang: Option<(Gang, Revision)>,
}

impl Snapshot {
    /// Reads a job. A gang never changes without its job's record, so that the two belong together if the
    /// record is still the same once the gang has been read.
    pub(crate) async fn load(store: &Store, id: &JobId) -> Result<Option<Self>, Error> {
        if !id.is_well_formed() {
            return Ok(None);
        }
        let key = keys::job(id);
        let Some(mut entry) = store.get(&key).await? else {
            return Ok(None);
        };
        for _ in 0..ATTEMPTS {
            let job = Self::with_gang(store, &entry).await?;
            match store.get(&key).await? {
                Some(again) if again.mod_revision != entry.mod_revision => entry = again,
                _ => return Ok(Some(job)),
            }
        }
        Err(Error::Contended {
            what: format!("job {id}"),
        })
    }

    /// Completes a job whose record was read.
    pub(crate) async fn with_gang(store: &Store, entry: &Entry) -> Result<Self, Error> {
        let record: Record = decode(entry)?;
        let gang = match store.get(&keys::gang(&record.job_id)).await? {
            Some(gang) => Some((decode(&gang)?, gang.mod_revision)),
            None => None,
        };
        Ok(Self {
            record,
            revision: entry.mod_revision,
            gang,
        })
    }

    /// Generation of the current gang, or of the last one; 0 before the first.
    pub(crate) fn generation(&self) -> u64 {
        self.gang
            .as_ref()
            .map_or(self.record.last_generation, |(_, revision)| revision.0)
    }

    /// The gang, if this is its generation.
    pub(crate) fn current(&self, generation: u64) -> Option<&Gang> {
        self.gang
            .as_ref()
            .filter(|(_, revision)| revision.0 == generation)
            .map(|(gang, _)| gang)
    }

    /// Whether a generation is the current one, or one before it whose survivors it consists of.
    pub(crate) fn continues(&self, generation: u64) -> bool {
        self.gang.as_ref().is_some_and(|(gang, revision)| {
            let since = if gang.since == 0 {
                revision.0
            } else {
                gang.since
            };
            (since..=revision.0).contains(&generation)
        })
    }

    /// The current gang, to be told of its end.
    pub(crate) fn placed(&self) -> Option<Placed> {
        let (gang, revision) = self.gang.as_ref()?;
        let recruits = self.record.recruits.iter().map(|r| r.worker_id.clone());
        let mut workers: Vec<String> = gang.worker_ids().into_iter().chain(recruits).collect();
        workers.sort();
        workers.dedup();
        Some(Placed {
            workers,
            generation: revision.0,
        })
    }

    /// The job on the wire.
    pub(crate) fn wire(&self) -> v1::Job {
        let gang = self.gang.as_ref().map(|(gang, _)| gang);
        wire(&self.record, gang, self.generation())
    }
}
