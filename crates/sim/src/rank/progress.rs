//! How far a fake rank is, told several times a second.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use espalier_worker::ipc::{self, Activity, FromRank};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::link::{Broken, Link};

/// Time between two words. The real ranks speak four times a second.
const TICK: Duration = Duration::from_millis(500);

pub(super) struct Progress(Mutex<Now>);

struct Now {
    told: ipc::Progress,
    since: Instant,
    begun: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Now {
            told: ipc::Progress::default(),
            since: now,
            begun: now,
        }))
    }

    pub(super) fn joins(&self, generation: u64) {
        let mut now = self.lock();
        now.told.generation = generation;
        now.told.operations = 0;
        now.told.activity = Activity::Working;
        now.since = Instant::now();
        now.begun = now.since;
    }

    pub(super) fn stepped(&self, step: u64) {
        let mut now = self.lock();
        now.told.step = step;
        now.told.step_ms = now.begun.elapsed().as_secs_f64() * 1000.0;
        now.begun = Instant::now();
    }

    pub(super) fn enters(&self) -> Turn<'_> {
        self.lock().told.operations += 1;
        self.turn(Activity::Waiting)
    }

    /// The rank does something until this is dropped.
    pub(super) fn turn(&self, activity: Activity) -> Turn<'_> {
        let mut now = self.lock();
        now.since = Instant::now();
        Turn {
            progress: self,
            before: std::mem::replace(&mut now.told.activity, activity),
        }
    }

    /// Tells it, until the agent is gone; nothing while the process is stopped.
    pub(super) async fn tell(
        &self,
        link: &Link,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<(), Broken> {
        loop {
            sleep(TICK).await;
            // When nobody can stop it any more it runs.
            let _ = stopped.wait_for(|stopped| !stopped).await;
            let told = {
                let now = self.lock();
                ipc::Progress {
                    for_ms: now.since.elapsed().as_millis() as u64,
                    ..now.told
                }
            };
            if told.generation > 0 {
                link.send(&FromRank::Progress(told)).await?;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // Only figures, sound whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Turn<'a> {
    progress: &'a Progress,
    before: Activity,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut now = self.progress.lock();
        now.told.activity = self.before;
        now.since = Instant::now();
    }
}
