//! What must hold after every event, whatever goes wrong.

mod jobs;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use espalier_registry::Manifest;
use espalier_store::simulated::Applied;
use espalier_store::{Change, Entry, Revision};
use tokio::sync::watch;

use crate::journal::Journal;
use crate::ledger::State;
use jobs::Jobs;

/// Clones check the same.
#[derive(Clone)]
pub(crate) struct Checks {
    inner: Arc<Mutex<Inner>>,
    /// The first thing that did not hold.
    broken: watch::Sender<Option<String>>,
}

struct Inner {
    journal: Journal,
    /// Folder of the registry's blobs.
    blobs: PathBuf,
    /// Slots of each worker.
    slots: BTreeMap<String, u32>,
    /// Fence of the last leader.
    fence: Revision,
    terms: u64,
    jobs: Jobs,
    /// The job of each request that was acknowledged.
    acknowledged: BTreeMap<String, String>,
    /// Last generation that a process was in.
    generations: BTreeMap<(String, u64), u64>,
    processes: BTreeMap<u64, Process>,
    started: u64,
}

/// A rank's process that runs.
struct Process {
    worker: String,
    life: u64,
    job: String,
    seat: u64,
    slot: u32,
}

/// What happened, for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    terms: u64,
    generations: u64,
    recoveries: u64,
    restarts: u64,
    processes: u64,
    transactions: u64,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} terms, {} generations, {} recoveries, {} restarts, {} processes, {} transactions",
            self.terms,
            self.generations,
            self.recoveries,
            self.restarts,
            self.processes,
            self.transactions
        )
    }
}

impl Checks {
    pub(crate) fn new(journal: Journal, blobs: PathBuf, slots: BTreeMap<String, u32>) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                journal,
                blobs,
                slots,
                fence: Revision(0),
                terms: 0,
                jobs: Jobs::default(),
                acknowledged: BTreeMap::new(),
                generations: BTreeMap::new(),
                processes: BTreeMap::new(),
                started: 0,
            })),
            broken: watch::Sender::new(None),
        }
    }

    /// Ends with the first thing that does not hold.
    pub(crate) async fn broken(&self) -> String {
        let mut broken = self.broken.subscribe();
        match broken.wait_for(Option::is_some).await {
            Ok(found) => found.clone().unwrap_or_default(),
            // This has a sender.
            Err(_) => std::future::pending().await,
        }
    }

    /// Something does not hold. Later things are but its echo.
    pub(crate) fn fail(&self, what: String) {
        self.broken.send_if_modified(|broken| {
            if broken.is_some() {
                return false;
            }
            tracing::error!(what, "an invariant is broken");
            *broken = Some(what);
            true
        });
    }

    fn require(&self, held: Result<(), String>) {
        if let Err(what) = held {
            self.fail(what);
        }
    }

    /// A transaction of the store.
    pub(crate) fn applied(&self, applied: &Applied<'_>) {
        let held = self.lock().applied(applied);
        self.require(held);
    }

    /// A submit was acknowledged.
    pub(crate) fn acknowledged(&self, request: &str, job: &str, entries: &BTreeMap<String, Entry>) {
        let held = {
            let mut inner = self.lock();
            let known = inner
                .acknowledged
                .entry(request.to_owned())
                .or_insert_with(|| job.to_owned());
            if known != job {
                Err(format!(
                    "request {request} was answered with {known} and {job}"
                ))
            } else if !entries.contains_key(&format!("jobs/{job}")) {
                Err(format!("job {job} was acknowledged and is not stored"))
            } else {
                Ok(())
            }
        };
        self.require(held);
    }

    /// A rank's process is in a group from now on.
    pub(crate) fn enters(&self, job: &str, seat: u64, generation: u64) {
        let last = {
            let mut inner = self.lock();
            let known = inner.generations.entry((job.to_owned(), seat)).or_default();
            std::mem::replace(known, generation)
        };
        if last >= generation {
            self.fail(format!(
                "seat {seat} of job {job} goes from generation {last} to {generation}"
            ));
        }
    }

    /// Two ranks are about to add their parts of a step.
    pub(crate) fn same(&self, job: &str, own: State, peers: State) {
        if own != peers {
            self.fail(format!(
                "ranks of job {job} step together from different states: {own:?}, {peers:?}"
            ));
        }
    }

    /// A rank has applied a step.
    pub(crate) fn stepped(&self, job: &str, seed: u64, state: State) {
        let wanted = State::undisturbed(seed, state.step);
        if state != wanted {
            self.fail(format!(
                "job {job} is at {state:?}, undisturbed it would be at {wanted:?}"
            ));
        }
    }

    /// A rank's process starts; gives its number.
    pub(crate) fn started(
        &self,
        (worker, life): (&str, u64),
        job: &str,
        seat: u64,
        slot: u32,
    ) -> u64 {
        let (number, held) = {
            let mut inner = self.lock();
            inner.started += 1;
            let number = inner.started;
            let held = inner.room((worker, life), slot);
            inner.processes.insert(
                number,
                Process {
                    worker: worker.to_owned(),
                    life,
                    job: job.to_owned(),
                    seat,
                    slot,
                },
            );
            (number, held)
        };
        self.require(held);
        number
    }

    /// It has ended.
    pub(crate) fn ended(&self, number: u64) {
        self.lock().processes.remove(&number);
    }

    /// Numbers of all that run.
    pub(crate) fn running(&self) -> Vec<u64> {
        self.lock().processes.keys().copied().collect()
    }

    /// When all jobs have ended and their ranks have had the time to.
    pub(crate) fn all_over(&self, requests: &BTreeSet<String>) {
        let held = self.lock().all_over(requests);
        self.require(held);
    }

    /// What happened.
    pub(crate) fn told(&self) -> Told {
        let inner = self.lock();
        Told {
            terms: inner.terms,
            generations: inner.jobs.generations,
            recoveries: inner.jobs.recoveries(),
            restarts: inner.jobs.restarts(),
            processes: inner.started,
            transactions: inner.jobs.transactions,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What is checked is of no use after a panic, which fails the run.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn applied(&mut self, applied: &Applied<'_>) -> Result<(), String> {
        self.jobs.transactions += 1;
        if let Some(writer) = applied.writer
            && Some(writer) != applied.leader
        {
            return Err(format!(
                "revision {} was written by the leader of fence {writer}, who leads no more ({})",
                applied.revision,
                applied
                    .leader
                    .map_or_else(|| "nobody does".to_owned(), |fence| format!("{fence} does"))
            ));
        }
        for (before, change) in applied.changes {
            let text = format!("{} {}\n", applied.revision, change.key());
            self.journal.digest(text.as_bytes());
            let (kind, name) = change.key().split_once('/').unwrap_or((change.key(), ""));
            match (kind, change) {
                ("leader", Change::Put(_)) => {
                    if applied.revision <= self.fence || before.is_some() {
                        return Err("a leader was elected while another leads".to_owned());
                    }
                    self.fence = applied.revision;
                    self.terms += 1;
                }
                ("requests", _) if before.is_some() => {
                    return Err(format!("the answer to request {name} has changed"));
                }
                ("aliases", Change::Put(entry)) => self.alias(entry, applied.entries)?,
                ("manifests", Change::Delete { .. }) => {
                    let text = format!("\"{name}\"");
                    let points = |entry: &&Entry| {
                        let alias = String::from_utf8_lossy(&entry.value);
                        entry.key.starts_with("aliases/") && alias.contains(&text)
                    };
                    if let Some(alias) = applied.entries.values().find(points) {
                        return Err(format!("{} points at {name}, which is gone", alias.key));
                    }
                }
                _ => {}
            }
        }
        self.jobs.applied(applied)?;
        self.jobs.seats_within(&self.slots)
    }

    /// An alias points at a manifest that is there, whose chunks are.
    fn alias(&self, entry: &Entry, entries: &BTreeMap<String, Entry>) -> Result<(), String> {
        let unreadable = |error: &dyn fmt::Display| format!("{}: {error}", entry.key);
        let alias: serde_json::Value =
            serde_json::from_slice(&entry.value).map_err(|e| unreadable(&e))?;
        let Some(digest) = alias["digest"].as_str() else {
            return Ok(());
        };
        let manifest = entries
            .get(&format!("manifests/{digest}"))
            .ok_or_else(|| format!("{} points at {digest}, which is not there", entry.key))?;
        let manifest = Manifest::parse(&manifest.value).map_err(|e| unreadable(&e))?;
        for chunk in manifest.files.iter().flat_map(|file| &file.chunks) {
            let digest = chunk.digest.to_string();
            let hex = digest.trim_start_matches("sha256:");
            if !self.blobs.join("chunks").join(&hex[..1]).join(hex).exists() {
                return Err(format!(
                    "{} needs chunk {hex}, which is not there",
                    entry.key
                ));
            }
        }
        Ok(())
    }

    /// A worker's slots are not shared by processes of its agent that runs.
    fn room(&self, (worker, life): (&str, u64), slot: u32) -> Result<(), String> {
        let taken = self
            .processes
            .values()
            .find(|known| known.worker == worker && known.life == life && known.slot == slot);
        if let Some(Process { job, seat, .. }) = taken {
            return Err(format!(
                "slot {slot} of worker {worker} is taken by seat {seat} of job {job}"
            ));
        }
        if self.slots.get(worker).is_none_or(|slots| slot >= *slots) {
            return Err(format!("worker {worker} has no slot {slot}"));
        }
        Ok(())
    }

    fn all_over(&self, requests: &BTreeSet<String>) -> Result<(), String> {
        if let Some(Process {
            worker, job, seat, ..
        }) = self.processes.values().next()
        {
            return Err(format!(
                "all jobs have ended, but seat {seat} of job {job} still runs on worker {worker}"
            ));
        }
        let jobs: BTreeSet<&String> = self.acknowledged.values().collect();
        if jobs.len() != requests.len() || self.jobs.count() != requests.len() {
            return Err(format!(
                "{} requests were answered with {} jobs, and {} are stored",
                requests.len(),
                jobs.len(),
                self.jobs.count()
            ));
        }
        Ok(())
    }
}
