//! How far this rank is, told to the agent a few times a second by a thread of its own: a rank that is
//! stopped falls silent, and one that hangs is seen to do nothing.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use espalier_collective::{Collective, CollectiveError, Work};
use tch::Tensor;

use crate::ipc::{self, Activity};

/// Time between two words.
const TICK: Duration = Duration::from_millis(250);
/// Steps that medians are taken over.
const RECENT: usize = 33;

/// Shared by the trainer, which changes it, and the thread that tells it.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<Now>>);

#[derive(Debug)]
struct Now {
    generation: u64,
    step: u64,
    operations: u64,
    activity: Activity,
    since: Instant,
    /// When the present step began.
    begun: Instant,
    /// Of the present step, what was not work.
    idle: Duration,
    steps: VecDeque<f64>,
    works: VecDeque<f64>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(Now {
            generation: 0,
            step: 0,
            operations: 0,
            activity: Activity::Working,
            since: now,
            begun: now,
            idle: Duration::ZERO,
            steps: VecDeque::new(),
            works: VecDeque::new(),
        })))
    }

    /// The rank is in a new group.
    pub(super) fn joins(&self, generation: u64) {
        let mut now = self.lock();
        now.generation = generation;
        now.operations = 0;
        now.turn(Activity::Working);
        now.next_step();
    }

    /// A step is done, of which this rank had so many micro-batches.
    pub(super) fn stepped(&self, step: u64, micro_batches: usize) {
        let mut now = self.lock();
        now.step = step;
        let wall = now.begun.elapsed();
        push(&mut now.steps, wall);
        if micro_batches > 0 {
            let work = wall.saturating_sub(now.idle) / micro_batches as u32;
            push(&mut now.works, work);
        }
        now.next_step();
    }

    /// The rank does what it alone does, until the guard is dropped.
    pub(super) fn aside(&self) -> Guard {
        self.turn(Activity::Aside)
    }

    fn enters(&self) -> Guard {
        self.lock().operations += 1;
        self.turn(Activity::Waiting)
    }

    fn turn(&self, activity: Activity) -> Guard {
        let before = self.lock().turn(activity);
        Guard {
            progress: self.clone(),
            before,
        }
    }

    fn told(&self) -> ipc::Progress {
        let now = self.lock();
        ipc::Progress {
            generation: now.generation,
            step: now.step,
            operations: now.operations,
            activity: now.activity,
            for_ms: now.since.elapsed().as_millis() as u64,
            step_ms: median(&now.steps),
            work_ms: median(&now.works),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // Only figures for people and limits: sound whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    /// Gives the activity before.
    fn turn(&mut self, activity: Activity) -> Activity {
        if self.activity != Activity::Working {
            self.idle += self.since.elapsed();
        }
        self.since = Instant::now();
        std::mem::replace(&mut self.activity, activity)
    }

    fn next_step(&mut self) {
        self.begun = Instant::now();
        self.idle = Duration::ZERO;
    }
}

/// Goes back to what the rank did before.
#[derive(Debug)]
pub(super) struct Guard {
    progress: Progress,
    before: Activity,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.progress.lock().turn(self.before);
    }
}

fn push(times: &mut VecDeque<f64>, time: Duration) {
    if times.len() == RECENT {
        times.pop_front();
    }
    times.push_back(time.as_secs_f64() * 1000.0);
}

fn median(times: &VecDeque<f64>) -> f64 {
    let mut sorted: Vec<f64> = times.iter().copied().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Tells by `tell`, until dropped.
#[derive(Debug)]
pub(super) struct Ticker {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// `tell` says whether anybody listens.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub(super) fn start(
        progress: &Progress,
        tell: impl Fn(ipc::Progress) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let progress = progress.clone();
        let (stop, stopped) = channel();
        let thread = thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout)
                    && tell(progress.told())
                {}
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does nothing that panics.
            let _ = thread.join();
        }
    }
}

/// A collective whose waits are seen. A wait counts from the operation's start, for the trainer waits at
/// once.
pub(super) struct Watched<'w> {
    pub(super) world: &'w dyn Collective,
    pub(super) progress: Progress,
}

impl Collective for Watched<'_> {
    fn rank(&self) -> u32 {
        self.world.rank()
    }

    fn world_size(&self) -> u32 {
        self.world.world_size()
    }

    fn all_reduce_sum<'t>(&self, tensor: &'t mut Tensor) -> Result<Work<'t>, CollectiveError> {
        let guard = self.progress.enters();
        Ok(self.world.all_reduce_sum(tensor)?.holding(guard))
    }

    fn broadcast<'t>(
        &self,
        tensor: &'t mut Tensor,
        root: u32,
    ) -> Result<Work<'t>, CollectiveError> {
        let guard = self.progress.enters();
        Ok(self.world.broadcast(tensor, root)?.holding(guard))
    }

    fn all_gather<'t>(
        &self,
        input: &'t Tensor,
        output: &'t mut Tensor,
    ) -> Result<Work<'t>, CollectiveError> {
        let guard = self.progress.enters();
        Ok(self.world.all_gather(input, output)?.holding(guard))
    }

    fn barrier(&self) -> Result<Work<'static>, CollectiveError> {
        let guard = self.progress.enters();
        Ok(self.world.barrier()?.holding(guard))
    }

    fn abort(&self, reason: &str) {
        self.world.abort(reason);
    }
}

#[cfg(test)]
mod tests {
    use espalier_collective::Solo;

    use super::*;

    #[test]
    fn waits_and_duties_are_told_and_are_no_work() {
        let progress = Progress::new();
        progress.joins(7);
        let solo = Solo::default();
        let world = Watched {
            world: &solo,
            progress: progress.clone(),
        };
        let mut tensor = Tensor::zeros([1], (tch::Kind::Double, tch::Device::Cpu));
        let work = world.all_reduce_sum(&mut tensor).unwrap();
        assert_eq!(progress.told().activity, Activity::Waiting);
        thread::sleep(Duration::from_millis(30));
        work.wait(Duration::from_secs(1)).unwrap();
        assert_eq!(progress.told().activity, Activity::Working);
        let duty = progress.aside();
        drop(progress.enters());
        assert_eq!(progress.told().activity, Activity::Aside);
        drop(duty);
        progress.stepped(1, 2);
        let told = progress.told();
        assert_eq!((told.generation, told.step, told.operations), (7, 1, 2));
        assert!(
            told.step_ms >= 30.0 && 2.0 * told.work_ms <= told.step_ms - 30.0,
            "{told:?}"
        );
    }

    #[test]
    fn a_ticker_tells_until_it_is_dropped() {
        let (sender, received) = channel();
        let ticker =
            Ticker::start(&Progress::new(), move |told| sender.send(told).is_ok()).unwrap();
        assert_eq!(received.recv().unwrap().activity, Activity::Working);
        drop(ticker);
        while received.try_recv().is_ok() {}
        assert!(received.recv().is_err());
    }
}
