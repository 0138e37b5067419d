//! A crew: the processes of a job on this worker, from the first to the last, over all generations
//! that they live through. It is started here, and led in [`super::crew`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use espalier_job::Job;
use espalier_proto::v1::{Recruit, StartGang};
use espalier_registry::blocking;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::assets::{self, Assets, Beginning};
use super::connection;
use super::coordinators::Coordinators;
use super::crew::Crew;
use super::key::GangKey;
use super::mailbox::Reporter;
use super::outside::Outside;
use super::pulse::Pulse;
use super::push::Pusher;
use super::report::RankStatus;
use super::roster::Roster;
use crate::args::Device;
use crate::ipc::Fault;

/// Events of ranks that wait to be handled; a rank that talks faster waits.
const EVENTS: usize = 256;

/// What all crews of a worker share.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Folder of the crews' folders.
    pub(super) runs: PathBuf,
    /// Those who have the registry.
    pub(super) coordinators: Coordinators,
    /// Host at which other workers reach the ranks.
    pub(super) rendezvous_host: String,
    /// Where tensors live.
    pub(super) device: Device,
    /// What ranks last said of themselves.
    pub(super) pulse: Pulse,
    /// Where ranks' processes come from.
    pub(super) outside: Arc<dyn Outside>,
}

/// What a crew that runs is told.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// Go on in a new generation.
    Regroup(Box<StartGang>),
    /// Start further processes, each in its slot.
    Recruit(Box<Recruit>, BTreeMap<u64, u32>),
    /// Rank 0 of a generation runs no further step.
    Halt(u64),
    /// Where the ranks of a generation meet.
    Rendezvous {
        /// The generation.
        generation: u64,
        /// host:port.
        address: String,
    },
}

/// With which order a crew begins.
#[derive(Clone, Debug)]
pub(super) enum Begin {
    /// To train.
    Gang(Box<StartGang>),
    /// To be ready to.
    Recruits(Box<Recruit>),
}

/// A crew to run.
pub(super) struct Gang {
    /// The gang that it begins with.
    pub(super) key: GangKey,
    pub(super) begin: Begin,
    /// Slot of each process.
    pub(super) slots: BTreeMap<u64, u32>,
    pub(super) place: Place,
    pub(super) reporter: Reporter,
    pub(super) commands: mpsc::Receiver<Command>,
    /// Takes the seats of processes that have ended.
    pub(super) vacated: mpsc::Sender<(GangKey, u64)>,
    /// Cancelled when the job is revoked or the agent stops.
    pub(super) stop: CancellationToken,
}

impl Gang {
    /// Runs the ranks until all have ended, or `stop` is cancelled and all are killed. Gives the commands
    /// that came too late for this crew.
    pub(super) async fn run(mut self) -> Vec<Command> {
        let run_dir = self
            .place
            .runs
            .join(format!("{}-{}", self.key.job_id, self.key.generation));
        let stop = self.stop.clone();
        let served = tokio::select! {
            () = stop.cancelled() => Ok(()),
            served = self.prepare(&run_dir) => match served {
                Ok(mut crew) => {
                    crew.serve(&mut self.commands, &stop).await;
                    crew.end().await;
                    Ok(())
                }
                Err(failure) => Err(failure),
            },
        };
        if let Err((fault, reason)) = served {
            self.fail_all(fault, &reason);
        }
        self.reporter.finish();
        let left = run_dir.clone();
        if let Err(error) = blocking(move || std::fs::remove_dir_all(left)).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(gang = %self.key, path = %run_dir.display(), %error, "folder could not be removed");
        }
        self.commands.close();
        let mut late = Vec::new();
        while let Ok(command) = self.commands.try_recv() {
            late.push(command);
        }
        late
    }

    fn fail_all(&self, fault: Fault, reason: &str) {
        for seat in self.slots.keys() {
            let reason = reason.to_owned();
            self.reporter
                .rank(*seat, RankStatus::Failed { fault, reason });
        }
    }

    /// Fetches what the ranks need and starts their processes.
    async fn prepare(&self, run_dir: &Path) -> Result<Crew, (Fault, String)> {
        let here = |error: std::io::Error, what: &str| {
            let reason = format!("cannot {what} {}: {error}", run_dir.display());
            (Fault::Infrastructure, reason)
        };
        let job = Job::parse(self.begin.spec_toml())
            .map_err(|problems| (Fault::User, format!("the job file is refused:\n{problems}")))?;
        let made = run_dir.to_owned();
        blocking(move || std::fs::create_dir_all(made))
            .await
            .map_err(|e| here(e, "make the folder"))?;
        let assets = self.fetch(&job, run_dir).await?;
        let listener = self
            .place
            .outside
            .listen(run_dir)
            .map_err(|e| here(e, "listen on a socket in"))?;

        let (events, received) = mpsc::channel(EVENTS);
        let mut tasks = JoinSet::new();
        tasks.spawn(connection::accept(listener, events.clone()));
        let teacher = assets.teacher_digest;
        let mut pusher = Pusher::new(&self.place.coordinators, &self.key, &job, teacher);
        let group = match &self.begin {
            Begin::Gang(order) => {
                pusher.follow(&order.resume_digest);
                Some(order.as_ref().clone())
            }
            Begin::Recruits(_) => None,
        };
        let mut crew = Crew {
            key: self.key.clone(),
            spec_toml: self.begin.spec_toml().to_owned(),
            place: self.place.clone(),
            reporter: self.reporter.clone(),
            vacated: self.vacated.clone(),
            run_dir: run_dir.to_path_buf(),
            pusher,
            assets,
            group,
            rendezvous: None,
            halt: None,
            roster: Roster::new([], Duration::ZERO),
            start: Instant::now(),
            senders: BTreeMap::new(),
            kill: BTreeMap::new(),
            recruits: BTreeMap::new(),
            parked: None,
            events,
            received,
            tasks,
        };
        for (seat, slot) in &self.slots {
            crew.launch(*seat, *slot)
                .map_err(|e| here(e, "start a rank in"))?;
        }
        Ok(crew)
    }

    async fn fetch(&self, job: &Job, run_dir: &Path) -> Result<Assets, (Fault, String)> {
        let beginning = match &self.begin {
            Begin::Recruits(_) => Beginning::Peers,
            Begin::Gang(order) if order.resume_digest.is_empty() => Beginning::First,
            Begin::Gang(order) => Beginning::Checkpoint(&order.resume_digest),
        };
        let fetched = assets::fetch(&self.place.coordinators, beginning, job, run_dir).await;
        match (&self.begin, fetched) {
            // The job has run with what it names: a recruit's trouble is not the user's.
            (Begin::Recruits(_), Err((_, reason))) => Err((Fault::Infrastructure, reason)),
            (_, fetched) => fetched,
        }
    }
}

impl Begin {
    fn spec_toml(&self) -> &str {
        match self {
            Self::Gang(order) => &order.spec_toml,
            Self::Recruits(order) => &order.spec_toml,
        }
    }
}
