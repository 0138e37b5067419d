//! A fake rank: it says to its agent what a real one says, in the order of `espalier_worker::rank`, and
//! computes the ledger instead of a model.

mod link;
mod progress;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use espalier_job::Job;
use espalier_worker::agent::{Duplex, Exit};
use espalier_worker::ipc::{
    Activity, CheckpointKind, Fault, Formation, FromRank, Group, Metrics, Recovered, Start,
};
use tokio::io::split;
use tokio::time::{Instant, sleep};

use crate::checks::Checks;
use crate::fabric::{Fabric, Lost, Seat, Value};
use crate::ledger::{self, State};
use crate::net::Life;
use link::{Broken, Link};
use progress::Progress;

/// As long as the real ones wait.
const START_DEADLINE: Duration = Duration::from_secs(60);
const GROUP_DEADLINE: Duration = Duration::from_secs(600);
const RENDEZVOUS_DEADLINE: Duration = Duration::from_secs(300);
const STORED_DEADLINE: Duration = Duration::from_secs(600);
/// Every other step is measured.
const METRICS_EVERY: u64 = 2;

/// A process.
pub(crate) struct Rank {
    pub(crate) seat: u64,
    pub(crate) life: Arc<Life>,
    pub(crate) fabric: Fabric,
    pub(crate) checks: Checks,
    /// The process is stopped while this is true.
    pub(crate) stopped: tokio::sync::watch::Receiver<bool>,
    /// Time for reading the job's data.
    pub(crate) prepare: Duration,
    /// Time of a step of which it does all, by the job's seed.
    pub(crate) steps: Arc<BTreeMap<u64, Duration>>,
}

/// Why a rank cannot go on in its group, or at all.
enum Trouble {
    Lost(Lost),
    Broken(Broken),
    Machine(String),
}

impl From<Lost> for Trouble {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<Broken> for Trouble {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// How a rank's time in a group ended.
enum Ended {
    Done,
    Left,
}

/// What the rank does all its life.
struct Work<'a> {
    rank: &'a Rank,
    link: &'a Link,
    progress: &'a Progress,
    start: Start,
    job: Job,
    total: u64,
    state: Option<State>,
    /// Step of the checkpoint that was handed over and is not known to be durable.
    in_flight: Option<u64>,
    /// Last step that is known to be durable.
    durable: u64,
    /// Step that was measured last.
    measured: u64,
    recovered: Option<(Recovered, Instant)>,
}

impl Rank {
    /// Runs to the end of the process.
    pub(crate) async fn run(self, stream: Box<dyn Duplex>) -> Exit {
        let (reader, writer) = split(stream);
        let (link, progress) = (Link::new(writer), Progress::new());
        let told = progress.tell(&link, self.stopped.clone());
        let exit = |status: &str, last_line: Option<String>| Exit {
            status: status.to_owned(),
            last_line,
        };
        tokio::select! {
            biased;
            () = link.read(reader) => exit("signal 6", Some("lost the agent".to_owned())),
            Err(error) = told => exit("signal 6", Some(error.0)),
            ended = self.work(&link, &progress) => match ended {
                Ok(()) => exit("code 0", None),
                Err(reason) => exit("code 1", Some(reason)),
            },
        }
    }

    async fn work(&self, link: &Link, progress: &Progress) -> Result<(), String> {
        link.send(&FromRank::Hello { seat: self.seat })
            .await
            .map_err(|broken| broken.0)?;
        let start = link
            .start(START_DEADLINE)
            .await
            .map_err(|broken| broken.0)?;
        let trained = async {
            let job = Job::parse(&start.spec_toml)
                .map_err(|problems| Trouble::Machine(problems.to_string()))?;
            let (search, tune) = (job.compress.search.steps, job.compress.tune.steps);
            let total = search.unwrap_or(0) + tune.unwrap_or(0);
            let mut work = Work {
                rank: self,
                link,
                progress,
                start,
                job,
                total,
                state: None,
                in_flight: None,
                durable: 0,
                measured: 0,
                recovered: None,
            };
            work.train().await
        };
        let reason = match trained.await {
            Ok(()) => return link.send(&FromRank::Done).await.map_err(|broken| broken.0),
            Err(Trouble::Lost(Lost(reason)) | Trouble::Machine(reason)) => reason,
            Err(Trouble::Broken(broken)) => broken.0,
        };
        let failed = FromRank::Failed {
            fault: Fault::Infrastructure,
            reason: reason.clone(),
        };
        // Who does not listen sees the process end.
        let _ = link.send(&failed).await;
        Err(reason)
    }

    /// A stopped process does nothing until it goes on.
    async fn goes_on(&self) {
        let mut stopped = self.stopped.clone();
        // When nobody can stop it any more it runs.
        let _ = stopped.wait_for(|stopped| !stopped).await;
    }

    /// Time of the processor.
    async fn spend(&self, time: Duration) {
        sleep(time).await;
        self.goes_on().await;
    }
}

impl Work<'_> {
    async fn train(&mut self) -> Result<(), Trouble> {
        self.rank.spend(self.rank.prepare).await;
        self.link.send(&FromRank::Ready).await?;
        loop {
            let group = self.link.group(GROUP_DEADLINE).await?;
            self.rank.goes_on().await;
            let generation = group.generation;
            self.rank
                .checks
                .enters(&self.start.job_id, self.rank.seat, generation);
            match self.attend(&group).await {
                Ok(Ended::Done) => return Ok(self.settle().await?),
                Ok(Ended::Left) => {}
                Err(Trouble::Lost(Lost(reason))) => {
                    self.link
                        .send(&FromRank::Waiting { generation, reason })
                        .await?;
                }
                Err(other) => return Err(other),
            }
            self.recovered = None;
        }
    }

    async fn attend(&mut self, group: &Group) -> Result<Ended, Trouble> {
        let begun = Instant::now();
        if group.formation == Formation::Fresh {
            self.state = Some(self.load(group.committed_step)?);
        }
        let Some(mut seat) = self.join(group).await? else {
            return Ok(Ended::Left);
        };
        let met = Instant::now();
        self.progress.joins(group.generation);
        // A newer group whose ranks part at once fails the collective that this one is in.
        let link = self.link;
        let ended = tokio::select! {
            biased;
            reason = link.parts(group.generation) => Err(Lost(reason).into()),
            ended = self.together(group, &mut seat, met - begun) => ended,
        };
        if ended.is_ok() {
            seat.leave_kindly();
        }
        ended
    }

    /// The state of the last checkpoint, or of the first step.
    fn load(&self, committed: u64) -> Result<State, Trouble> {
        let state = match &self.start.resume {
            Some(folder) => read(folder).map_err(Trouble::Machine)?,
            None => State::first(self.job.train.seed),
        };
        if state.step != committed {
            return Err(Trouble::Machine(format!(
                "the checkpoint to go on from ends at step {}, but {committed} steps are committed",
                state.step
            )));
        }
        Ok(state)
    }

    async fn join(&mut self, group: &Group) -> Result<Option<Seat>, Trouble> {
        let Rank { fabric, life, .. } = self.rank;
        let generation = group.generation;
        let (rank, world_size) = (group.rank, group.world_size);
        let mut seat = if rank == 0 {
            let (address, seat) = fabric.host(life, generation, world_size);
            if world_size > 1 {
                self.link
                    .send(&FromRank::RendezvousReady {
                        generation,
                        address,
                    })
                    .await?;
            }
            seat
        } else {
            let found = self
                .link
                .rendezvous(generation, RENDEZVOUS_DEADLINE)
                .await?;
            let Some(address) = found else {
                return Ok(None);
            };
            tokio::select! {
                biased;
                () = self.link.superseded() => return Ok(None),
                seat = fabric.join(life, &address, generation, rank) => seat?,
            }
        };
        tokio::select! {
            biased;
            () = self.link.superseded() => return Ok(None),
            met = seat.meet() => met?,
        }
        self.rank.goes_on().await;
        Ok(Some(seat))
    }

    async fn together(
        &mut self,
        group: &Group,
        seat: &mut Seat,
        meeting: Duration,
    ) -> Result<Ended, Trouble> {
        let met = Instant::now();
        let (step, healed) = self.heal(seat).await?;
        self.link
            .send(&FromRank::Running {
                generation: group.generation,
                total_steps: self.total,
            })
            .await?;
        if group.rank == 0 && group.formation != Formation::Fresh {
            let recovered = Recovered {
                generation: group.generation,
                step,
                healed,
                meet_ms: meeting.as_millis() as u64,
                heal_ms: met.elapsed().as_millis() as u64,
                step_ms: 0,
            };
            self.recovered = Some((recovered, Instant::now()));
            self.catch_up(group.committed_step).await?;
        }
        while let Some(state) = self.state
            && state.step < self.total
            && !self.link.is_superseded()
        {
            if group.rank == 0 && self.link.halts() {
                self.halt(group, state).await?;
                continue;
            }
            self.step(group, seat, state).await?;
        }
        if self.state.is_none_or(|state| state.step < self.total) {
            return Ok(Ended::Left);
        }
        if group.rank == 0 {
            self.finish().await?;
        }
        Ok(Ended::Done)
    }

    /// Brings all to the highest step that any has done; gives it, and how many were brought to it.
    async fn heal(&mut self, seat: &mut Seat) -> Result<(u64, u32), Trouble> {
        let own = self.state.map(|state| state.step);
        let done = self.exchange(seat, Value::Done(own)).await?;
        let done: Vec<Option<u64>> = done
            .into_iter()
            .map(|value| match value {
                Value::Done(step) => step,
                _ => None,
            })
            .collect();
        let highest = done.iter().copied().max().flatten();
        let Some(step) = highest else {
            let reason = "no rank of the group holds a state to go on from";
            return Err(Trouble::Machine(reason.to_owned()));
        };
        let holds = |of: &Option<u64>| *of == Some(step);
        let healed = done.iter().filter(|of| !holds(of)).count() as u32;
        if healed == 0 {
            return Ok((step, 0));
        }
        let healer = done.iter().position(holds).unwrap_or(0);
        let given = self.state.filter(|_| seat.rank as usize == healer);
        let states = self.exchange(seat, Value::Heal(given)).await?;
        let state = states.into_iter().find_map(|value| match value {
            Value::Heal(state) => state,
            _ => None,
        });
        if own != Some(step) {
            self.state = state;
        }
        Ok((step, healed))
    }

    async fn exchange(&mut self, seat: &mut Seat, value: Value) -> Result<Vec<Value>, Trouble> {
        let turn = self.progress.enters();
        let values = seat.gather(value).await;
        drop(turn);
        self.rank.goes_on().await;
        Ok(values?)
    }

    async fn step(&mut self, group: &Group, seat: &mut Seat, state: State) -> Result<(), Trouble> {
        let (seed, next) = (self.job.train.seed, state.step + 1);
        let own = ledger::part(seed, next, group.rank, group.world_size);
        // As many processors, as little time.
        let time = self.rank.steps.get(&seed).copied().unwrap_or_default() / group.world_size;
        self.rank.spend(time).await;
        let parts = self.exchange(seat, Value::Part(state, own)).await?;
        let mut sum = 0_u64;
        for value in parts {
            let Value::Part(before, part) = value else {
                continue;
            };
            self.rank.checks.same(&self.start.job_id, state, before);
            sum = sum.wrapping_add(part);
        }
        let state = state.next(sum);
        self.state = Some(state);
        self.rank.checks.stepped(&self.start.job_id, seed, state);
        self.progress.stepped(state.step);
        if let Some((recovered, since)) = self.recovered.take() {
            let step_ms = since.elapsed().as_millis() as u64;
            let recovered = Recovered {
                step_ms,
                ..recovered
            };
            self.link.send(&FromRank::Recovered(recovered)).await?;
        }
        if group.rank == 0 {
            let aside = self.progress.turn(Activity::Aside);
            if state.step.is_multiple_of(METRICS_EVERY) || state.step == self.total {
                self.measure(state).await?;
            }
            if self.is_due(state.step) {
                self.hand_over(state, CheckpointKind::Training).await?;
            }
            drop(aside);
        }
        Ok(())
    }

    /// The gang is about to leave: what was done is handed over instead of the next step.
    async fn halt(&mut self, group: &Group, state: State) -> Result<(), Trouble> {
        let _aside = self.progress.turn(Activity::Aside);
        let generation = group.generation;
        let kept = state.step <= group.committed_step.max(self.durable);
        if !kept && self.in_flight != Some(state.step) {
            self.hand_over(state, CheckpointKind::Training).await?;
        }
        self.settle().await?;
        self.link.send(&FromRank::Halted { generation }).await?;
        Ok(self.link.another(GROUP_DEADLINE).await?)
    }

    fn is_due(&self, step: u64) -> bool {
        step < self.total && step.is_multiple_of(self.job.publish.every)
    }

    /// What a rank that has become rank 0 tells: the one before it may not have come to it.
    async fn catch_up(&mut self, committed: u64) -> Result<(), Trouble> {
        let _aside = self.progress.turn(Activity::Aside);
        let Some(state) = self.state else {
            return Ok(());
        };
        let measured = if state.step == self.total {
            state.step
        } else {
            state.step - state.step % METRICS_EVERY
        };
        if measured > self.measured {
            self.measure(State {
                step: measured,
                ..state
            })
            .await?;
        }
        if self.is_due(state.step) && state.step > committed && self.in_flight != Some(state.step) {
            self.hand_over(state, CheckpointKind::Training).await?;
        }
        Ok(())
    }

    async fn measure(&mut self, state: State) -> Result<(), Trouble> {
        self.measured = state.step;
        let metrics = Metrics {
            step: state.step,
            total_steps: self.total,
            stage: "search".to_owned(),
            ..Metrics::default()
        };
        Ok(self.link.send(&FromRank::Metrics(metrics)).await?)
    }

    async fn finish(&mut self) -> Result<(), Trouble> {
        let _aside = self.progress.turn(Activity::Aside);
        self.rank.spend(2 * self.rank.prepare).await;
        match self.state {
            Some(state) => self.hand_over(state, CheckpointKind::Model).await,
            None => Ok(()),
        }
    }

    async fn hand_over(&mut self, state: State, kind: CheckpointKind) -> Result<(), Trouble> {
        self.settle().await?;
        let name = match kind {
            CheckpointKind::Training => "checkpoint",
            CheckpointKind::Model => "model",
        };
        let (step, dir) = (
            state.step,
            self.start.run_dir.join(format!("{name}-{}", state.step)),
        );
        write(&dir, &state).map_err(Trouble::Machine)?;
        self.link
            .send(&FromRank::Checkpoint { step, dir, kind })
            .await?;
        self.in_flight = Some(step);
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), Broken> {
        if let Some(step) = self.in_flight.take() {
            self.link.stored(step, STORED_DEADLINE).await?;
            self.durable = step.max(self.durable);
        }
        Ok(())
    }
}

/// Name of the state in a checkpoint.
pub(crate) const STATE: &str = "state.json";

fn write(dir: &Path, state: &State) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", dir.display());
    std::fs::create_dir_all(dir).map_err(failed)?;
    let text = serde_json::to_vec(state).map_err(|error| error.to_string())?;
    std::fs::write(dir.join(STATE), text).map_err(failed)
}

/// The state in a checkpoint's folder.
pub(crate) fn read(dir: &Path) -> Result<State, String> {
    let path = dir.join(STATE);
    let text = std::fs::read(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))
}
