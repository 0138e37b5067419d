//! What must hold of jobs: their states, generations, ledgers and places.

use std::collections::BTreeMap;

use espalier_coordinator::job::states::TABLE;
use espalier_coordinator::job::{Gang, Record, State};
use espalier_proto::v1::watch_job_response::Entry as FeedEntry;
use espalier_proto::v1::{JobEvent, JobEventKind, WatchJobResponse};
use espalier_registry::Manifest;
use espalier_store::simulated::Applied;
use espalier_store::{Change, Entry, Revision};
use prost::Message as _;

/// Moves along the table that one transaction makes at most.
const MOVES: usize = 4;

/// All jobs, as the last transaction left them.
#[derive(Default)]
pub(super) struct Jobs {
    records: BTreeMap<String, Record>,
    gangs: BTreeMap<String, (Gang, Revision)>,
    /// Last step in each job's ledger.
    ledgers: BTreeMap<String, u64>,
    /// Newest generation of each job.
    newest: BTreeMap<String, Revision>,
    pub(super) generations: u64,
    pub(super) transactions: u64,
}

impl Jobs {
    pub(super) fn applied(&mut self, applied: &Applied<'_>) -> Result<(), String> {
        // The ledger first: what publishes the model takes the gang away.
        for (before, change) in applied.changes {
            if let (Some(feed), Change::Put(entry)) = (change.key().strip_prefix("feeds/"), change)
            {
                let job = feed.split('/').next().unwrap_or(feed);
                if before.is_some() {
                    return Err(format!("{} was written twice", entry.key));
                }
                self.told(job, entry, applied)?;
            }
        }
        for (_, change) in applied.changes {
            if let Some(job) = change.key().strip_prefix("gangs/") {
                self.gang(job, change, applied.revision)?;
            }
        }
        for (_, change) in applied.changes {
            if let Some(job) = change.key().strip_prefix("jobs/") {
                self.record(job, change)?;
            }
        }
        Ok(())
    }

    fn told(&mut self, job: &str, entry: &Entry, applied: &Applied<'_>) -> Result<(), String> {
        let told = WatchJobResponse::decode(entry.value.as_slice())
            .map_err(|error| format!("{}: {error}", entry.key))?;
        match told.entry {
            Some(FeedEntry::Event(event)) if event.kind() == JobEventKind::StepsCommitted => {
                self.committed(job, &event, applied)
            }
            _ => Ok(()),
        }
    }

    /// The ledger holds every step once, and only of the present generation.
    fn committed(
        &mut self,
        job: &str,
        event: &JobEvent,
        applied: &Applied<'_>,
    ) -> Result<(), String> {
        let last = self.ledgers.entry(job.to_owned()).or_default();
        if event.first_step != *last + 1 || event.last_step < event.first_step {
            return Err(format!(
                "steps {} to {} of job {job} were committed after step {last}",
                event.first_step, event.last_step
            ));
        }
        *last = event.last_step;
        let present = self.gangs.get(job).map(|(_, generation)| generation.0);
        let manifest = applied
            .entries
            .get(&format!("manifests/{}", event.digest))
            .ok_or_else(|| {
                format!(
                    "steps of job {job} are in {}, which is not there",
                    event.digest
                )
            })?;
        let manifest = Manifest::parse(&manifest.value).map_err(|error| error.to_string())?;
        if manifest.lineage.generation != present || manifest.lineage.step != Some(event.last_step)
        {
            return Err(format!(
                "step {} of job {job} was published by generation {:?}, step {:?}; the present one is {present:?}",
                event.last_step, manifest.lineage.generation, manifest.lineage.step
            ));
        }
        Ok(())
    }

    fn gang(&mut self, job: &str, change: &Change, revision: Revision) -> Result<(), String> {
        let Change::Put(entry) = change else {
            self.gangs.remove(job);
            return Ok(());
        };
        let gang: Gang = read(entry)?;
        let newest = self.newest.entry(job.to_owned()).or_default();
        if revision <= *newest {
            return Err(format!(
                "job {job} goes from generation {newest} to {revision}"
            ));
        }
        *newest = revision;
        self.generations += 1;
        let ranks: Vec<u32> = gang.ranks().map(|(rank, ..)| rank).collect();
        if ranks.is_empty() || ranks != (0..gang.world_size()).collect::<Vec<_>>() {
            return Err(format!(
                "generation {revision} of job {job} has the ranks {ranks:?}"
            ));
        }
        self.gangs.insert(job.to_owned(), (gang, revision));
        Ok(())
    }

    fn record(&mut self, job: &str, change: &Change) -> Result<(), String> {
        let Change::Put(entry) = change else {
            return Err(format!("job {job} is gone"));
        };
        let record: Record = read(entry)?;
        let ledger = self.ledgers.get(job).copied().unwrap_or(0);
        if record.committed_step != ledger {
            return Err(format!(
                "job {job} has {} committed steps, its ledger {ledger}",
                record.committed_step
            ));
        }
        if let Some(before) = self.records.get(job) {
            if !moves(before.state, record.state, MOVES) {
                return Err(format!(
                    "job {job} goes from {} to {}, which no moves of the table do",
                    before.state, record.state
                ));
            }
            if record.seats < before.seats {
                return Err(format!("job {job} gives seats again"));
            }
        } else if record.state != State::Queued {
            return Err(format!("job {job} begins as {}", record.state));
        }
        let has_gang = self.gangs.contains_key(job);
        if has_gang && !record.state.has_gang() {
            return Err(format!("job {job} is {} and has a gang", record.state));
        }
        if (record.state == State::Succeeded) == record.published_digest.is_empty() {
            return Err(format!(
                "job {job} is {}, its model {:?}",
                record.state, record.published_digest
            ));
        }
        self.records.insert(job.to_owned(), record);
        Ok(())
    }

    /// No worker is given more ranks than it has slots, and no seat is given twice.
    pub(super) fn seats_within(&self, slots: &BTreeMap<String, u32>) -> Result<(), String> {
        let mut used: BTreeMap<&str, u32> = BTreeMap::new();
        for (gang, _) in self.gangs.values() {
            for member in &gang.members {
                *used.entry(&member.worker_id).or_default() += member.seats.len() as u32;
            }
        }
        for recruit in self.records.values().flat_map(|record| &record.recruits) {
            *used.entry(&recruit.worker_id).or_default() += 1;
        }
        match used
            .into_iter()
            .find(|(worker, used)| slots.get(*worker).is_none_or(|s| used > s))
        {
            None => Ok(()),
            Some((worker, used)) => Err(format!("worker {worker} is given {used} ranks")),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.records.len()
    }

    pub(super) fn recoveries(&self) -> u64 {
        self.records.values().map(|r| u64::from(r.recoveries)).sum()
    }

    pub(super) fn restarts(&self) -> u64 {
        let restarts = self
            .records
            .values()
            .map(|r| u64::from(r.infrastructure_restarts));
        restarts.sum()
    }
}

/// Whether so many moves along the table, or fewer, lead from one state to another.
fn moves(from: State, to: State, most: usize) -> bool {
    let next = || TABLE.iter().filter(|(at, ..)| *at == from);
    from == to || (most > 0 && next().any(|(_, _, then)| moves(*then, to, most - 1)))
}

fn read<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, String> {
    serde_json::from_slice(&entry.value).map_err(|error| format!("{}: {error}", entry.key))
}
