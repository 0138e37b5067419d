//! How the ranks of a gang on this worker stand. Pure: events and the clock change it, and it says
//! which rank has failed and which must be killed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::outside::Exit;

/// Time for a process to load libtorch and say hello.
const HELLO: Duration = Duration::from_secs(120);
/// Time for a rank that has said its last word to exit.
const EXIT: Duration = Duration::from_secs(30);

/// The ranks. Time is what has passed since some fixed moment.
#[derive(Debug)]
pub(crate) struct Roster(BTreeMap<u64, Rank>);

#[derive(Debug, Default)]
struct Rank {
    link: Link,
    /// It has said that it is done or has failed.
    settled: bool,
    exit: Option<Exit>,
    /// When it must be gone, or have connected, and what is said otherwise.
    deadline: Option<(Duration, String)>,
    /// Why this worker killed it.
    killed: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Link {
    #[default]
    None,
    Open,
    Closed,
}

impl Roster {
    /// Processes that start now, by their seats.
    pub(crate) fn new(seats: impl IntoIterator<Item = u64>, now: Duration) -> Self {
        Self(
            seats
                .into_iter()
                .map(|seat| (seat, Rank::starting(now)))
                .collect(),
        )
    }

    /// A process starts now.
    pub(crate) fn add(&mut self, seat: u64, now: Duration) {
        self.0.insert(seat, Rank::starting(now));
    }

    /// A connection says it is of this seat. Errors when it cannot be.
    pub(crate) fn connected(&mut self, seat: u64) -> Result<(), String> {
        let state = self
            .0
            .get_mut(&seat)
            .ok_or_else(|| format!("seat {seat} is not of this worker"))?;
        if state.link != Link::None || state.exit.is_some() {
            return Err(format!("seat {seat} has connected before"));
        }
        state.link = Link::Open;
        state.deadline = None;
        Ok(())
    }

    /// The rank has said that it is done or has failed. False when it had said so before.
    pub(crate) fn settled(&mut self, seat: u64, now: Duration) -> bool {
        let Some(state) = self.0.get_mut(&seat) else {
            return false;
        };
        state.must_exit(now, "had said its last word");
        !std::mem::replace(&mut state.settled, true)
    }

    /// The rank's connection has ended. Gives the failure if that makes it one.
    pub(crate) fn disconnected(&mut self, seat: u64, now: Duration) -> Option<String> {
        let state = self.0.get_mut(&seat)?;
        state.link = Link::Closed;
        state.must_exit(now, "had closed its connection");
        state.failure()
    }

    /// The rank's process has ended. Gives the failure if that makes it one.
    pub(crate) fn exited(&mut self, seat: u64, exit: Exit) -> Option<String> {
        let state = self.0.get_mut(&seat)?;
        state.exit = Some(exit);
        state.failure()
    }

    /// This worker kills the rank.
    pub(crate) fn killed(&mut self, seat: u64, reason: String) {
        if let Some(state) = self.0.get_mut(&seat) {
            state.killed.get_or_insert(reason);
        }
    }

    /// Ranks that must be killed, and why.
    pub(crate) fn overdue(&self, now: Duration) -> Vec<(u64, String)> {
        self.0
            .iter()
            .filter(|(_, state)| state.exit.is_none() && state.killed.is_none())
            .filter_map(|(&seat, state)| match &state.deadline {
                Some((deadline, reason)) if now >= *deadline => Some((seat, reason.clone())),
                _ => None,
            })
            .collect()
    }

    /// The process is there and has not said its last word.
    pub(crate) fn works(&self, seat: u64) -> bool {
        let working =
            |state: &Rank| state.exit.is_none() && !state.settled && state.killed.is_none();
        self.0.get(&seat).is_some_and(working)
    }

    /// Whether there is, or was, a process in this seat.
    pub(crate) fn knows(&self, seat: u64) -> bool {
        self.0.contains_key(&seat)
    }

    /// The seats of all processes.
    pub(crate) fn seats(&self) -> Vec<u64> {
        self.0.keys().copied().collect()
    }

    /// The seat is of no more use: what becomes of its process is not told, and it must not stay.
    pub(crate) fn dismissed(&mut self, seat: u64) {
        if let Some(state) = self.0.get_mut(&seat) {
            state.settled = true;
        }
    }

    /// Whether a process was killed that has not ended yet.
    pub(crate) fn dying(&self) -> bool {
        let dying = |state: &Rank| state.killed.is_some() && state.exit.is_none();
        self.0.values().any(dying)
    }

    /// Whether every process has ended and everything it said was heard.
    pub(crate) fn ended(&self) -> bool {
        self.0.values().all(Rank::ended)
    }
}

impl Rank {
    fn starting(now: Duration) -> Self {
        let text = format!("did not connect within {} s", HELLO.as_secs());
        Self {
            deadline: Some((now + HELLO, text)),
            ..Self::default()
        }
    }

    /// A process that ended may have left messages in its connection: they count first. One that
    /// never connected has nothing to say, because it speaks only after `Start`.
    fn ended(&self) -> bool {
        self.exit.is_some() && self.link != Link::Open
    }

    fn must_exit(&mut self, now: Duration, what: &str) {
        let text = format!("{what} but did not exit within {} s", EXIT.as_secs());
        self.deadline.get_or_insert((now + EXIT, text));
    }

    fn failure(&mut self) -> Option<String> {
        if !self.ended() || self.settled {
            return None;
        }
        self.settled = true;
        let exit = self.exit.as_ref()?;
        let cause = match (&self.killed, &exit.last_line) {
            (Some(reason), _) => format!("killed by the worker: it {reason}"),
            (None, Some(line)) => format!("ended with {}; last line: {line}", exit.status),
            (None, None) => format!("ended with {}", exit.status),
        };
        Some(cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn exit() -> Exit {
        Exit {
            status: "signal 9".to_owned(),
            last_line: Some("step 7".to_owned()),
        }
    }

    #[test]
    fn an_exit_without_a_last_word_is_a_failure_told_once() {
        let mut roster = Roster::new([0, 1], NOW);
        roster.connected(0).unwrap();
        assert_eq!(roster.exited(0, exit()), None);
        let failure = roster.disconnected(0, NOW).unwrap();
        assert_eq!(failure, "ended with signal 9; last line: step 7");
        assert_eq!(roster.disconnected(0, NOW), None);
        assert!(!roster.ended());
        assert!(roster.exited(1, exit()).is_some());
        assert!(roster.ended());
    }

    #[test]
    fn what_a_rank_said_before_it_exited_counts() {
        let mut roster = Roster::new([0], NOW);
        roster.connected(0).unwrap();
        assert_eq!(roster.exited(0, exit()), None);
        assert!(roster.settled(0, NOW));
        assert!(!roster.settled(0, NOW));
        assert_eq!(roster.disconnected(0, NOW), None);
        assert!(roster.ended());
    }

    #[test]
    fn a_silent_rank_is_killed_after_its_deadline() {
        let mut roster = Roster::new([0, 1], NOW);
        roster.connected(1).unwrap();
        assert!(roster.overdue(NOW + HELLO / 2).is_empty());
        let overdue = roster.overdue(NOW + HELLO);
        assert_eq!(overdue.len(), 1);
        let (rank, reason) = overdue.into_iter().next().unwrap();
        assert_eq!(rank, 0);
        roster.killed(rank, reason);
        assert!(roster.overdue(NOW + HELLO).is_empty());
        let failure = roster.exited(0, exit()).unwrap();
        assert!(
            failure.contains("did not connect within 120 s"),
            "{failure}"
        );
    }

    #[test]
    fn a_done_rank_that_lingers_is_killed_and_stays_done() {
        let mut roster = Roster::new([0], NOW);
        roster.connected(0).unwrap();
        roster.settled(0, NOW);
        let (rank, reason) = roster.overdue(NOW + EXIT).into_iter().next().unwrap();
        roster.killed(rank, reason);
        assert_eq!(roster.disconnected(0, NOW), None);
        assert_eq!(roster.exited(0, exit()), None);
        assert!(roster.ended());
    }

    #[test]
    fn a_dismissed_rank_dies_without_a_word() {
        let mut roster = Roster::new([4, 5], NOW);
        roster.connected(4).unwrap();
        assert!(roster.works(4) && !roster.dying());
        roster.dismissed(4);
        roster.killed(4, "is not needed".to_owned());
        assert!(!roster.works(4) && roster.dying());
        assert_eq!(roster.disconnected(4, NOW), None);
        assert_eq!(roster.exited(4, exit()), None);
        assert!(!roster.dying() && roster.works(5) && !roster.works(6));
        roster.add(6, NOW);
        assert!(roster.works(6) && roster.knows(4) && !roster.knows(7));
    }

    #[test]
    fn strangers_and_doubles_are_refused() {
        let mut roster = Roster::new([2], NOW);
        assert!(
            roster
                .connected(0)
                .unwrap_err()
                .contains("not of this worker")
        );
        roster.connected(2).unwrap();
        assert!(
            roster
                .connected(2)
                .unwrap_err()
                .contains("connected before")
        );
    }
}
