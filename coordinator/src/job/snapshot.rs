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
    /// Reads a job.
    pub(crate) async fn load(store: &Store, id: &JobId) -> Result<Option<Self>, Error> {
        if !id.is_well_formed() {
            return Ok(None);
        }
        match store.get(&keys::job(id)).await? {
            Some(entry) => Self::with_gang(store, &entry).await.map(Some),
            None => Ok(None),
        }
    }

    /// Completes a job whose record was read. Who writes a gang writes the record with it: where the two
    /// do not fit, somebody did between the reads, and the record is read again.
    pub(crate) async fn with_gang(store: &Store, entry: &Entry) -> Result<Self, Error> {
        let mut job = Self::beside(store, entry).await?;
        for _ in 0..ATTEMPTS {
            if job.fits() {
                break;
            }
            match store.get(&entry.key).await? {
                Some(again) if again.mod_revision != job.revision => {
                    job = Self::beside(store, &again).await?;
                }
                _ => break,
            }
        }
        Ok(job)
    }

    /// Record and gang may be of one moment: the gang is not newer, and is there if the state asks for one.
    fn fits(&self) -> bool {
        #[cfg(feature = "mutants")]
        if espalier_mutants::is("torn-read") {
            return true;
        }
        match &self.gang {
            Some((_, generation)) => *generation <= self.revision,
            None => !self.record.state.has_gang(),
        }
    }

    async fn beside(store: &Store, entry: &Entry) -> Result<Self, Error> {
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

#[cfg(test)]
mod tests {
    use espalier_store::{Op, Options, Txn};

    use super::*;
    use crate::codec::encode;
    use crate::job::{Formation, Member, Seat, State};

    fn record(state: State) -> Record {
        let spec = include_str!("../../../examples/fashion-mnist-dense.toml");
        let spec = spec.replace("../.cache", "/data");
        let job = espalier_job::Job::parse(&spec).unwrap();
        let mut record = Record::accepted(JobId::numbered(1), &job, spec, 0);
        record.state = state;
        record
    }

    #[tokio::test]
    async fn a_record_and_a_gang_of_two_moments_are_read_again() {
        let store = Store::in_memory(Options::default()).await.unwrap();
        let leader = store.campaign("a").await.unwrap();
        let id = JobId::numbered(1);
        let gang = Gang {
            members: vec![Member {
                worker_id: "w".to_owned(),
                incarnation: "i".to_owned(),
                first_rank: 0,
                seats: vec![Seat {
                    id: 1,
                    holds: false,
                }],
            }],
            formation: Formation::Fresh,
            since: 0,
            reason: String::new(),
        };
        let job = |state| Op::put(keys::job(&id), encode(&record(state)));
        let queued = Txn::new().then(job(State::Queued));
        leader.commit(queued).await.unwrap();
        let before = store.get(&keys::job(&id)).await.unwrap().unwrap();
        let placed = Txn::new()
            .then(job(State::Placing))
            .then(Op::put(keys::gang(&id), encode(&gang)));
        leader.commit(placed).await.unwrap();
        let whole = Snapshot::with_gang(&store, &before).await.unwrap();
        assert_eq!(whole.record.state, State::Placing);
        assert_eq!(whole.generation(), whole.revision.0);

        let before = store.get(&keys::job(&id)).await.unwrap().unwrap();
        let ended = Txn::new()
            .then(job(State::Succeeded))
            .then(Op::delete(keys::gang(&id)));
        leader.commit(ended).await.unwrap();
        let whole = Snapshot::with_gang(&store, &before).await.unwrap();
        assert_eq!(whole.record.state, State::Succeeded);
        assert!(whole.gang.is_none());
    }
}
