//! The states of a job: one table, from which the code, `docs/jobs-states.md` and the tests are made.

use std::fmt;

use espalier_proto::v1;
use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Accepted; waits for workers.
    Queued,
    /// Workers are chosen and start their ranks.
    Placing,
    /// Ranks train.
    Running,
    /// Part of the gang was lost: its survivors regroup or wait for others; without survivors the job
    /// waits to go on from its last checkpoint.
    Recovering,
    /// Held back on request, without workers, until it is resumed.
    Paused,
    /// All steps are done; the model is being measured and published.
    Publishing,
    /// Cancel was asked for; ranks are being stopped.
    Cancelling,
    /// The model is in the registry.
    Succeeded,
    /// The job cannot go on.
    Failed,
    /// Stopped on request.
    Cancelled,
}

/// What moves a job from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// The scheduler chose a gang.
    Place,
    /// Every rank has met its peers, or a checkpoint of theirs has arrived.
    Run,
    /// The last step was measured.
    Trained,
    /// Part of the gang was lost; the survivors keep what they have in memory.
    Regroup,
    /// The gang was lost for good and the budget of restarts allows another.
    Lose,
    /// The gang has left its workers for another job, or a worker that is drained.
    Evict,
    /// A user asked to hold the job back, and its gang has left.
    Pause,
    /// A user asked to go on.
    Resume,
    /// The publish of the model was committed.
    Publish,
    /// A user asked to stop.
    Cancel,
    /// The gang was told to stop.
    Stop,
    /// The job is at fault, or its budget of restarts is spent.
    GiveUp,
}

use State::{
    Cancelled, Cancelling, Failed, Paused, Placing, Publishing, Queued, Recovering, Running,
    Succeeded,
};
use Trigger::{
    Cancel, Evict, GiveUp, Lose, Pause, Place, Publish, Regroup, Resume, Run, Stop, Trained,
};

/// Every allowed transition. A pair that is not here cannot happen.
pub const TABLE: &[(State, Trigger, State)] = &[
    (Queued, Place, Placing),
    (Queued, Pause, Paused),
    (Queued, Cancel, Cancelling),
    (Placing, Run, Running),
    (Placing, Regroup, Recovering),
    (Placing, Lose, Recovering),
    (Placing, Evict, Queued),
    (Placing, Pause, Paused),
    (Placing, Cancel, Cancelling),
    (Placing, GiveUp, Failed),
    (Running, Trained, Publishing),
    (Running, Regroup, Recovering),
    (Running, Lose, Recovering),
    (Running, Evict, Queued),
    (Running, Pause, Paused),
    (Running, Cancel, Cancelling),
    (Running, GiveUp, Failed),
    (Recovering, Run, Running),
    (Recovering, Regroup, Recovering),
    (Recovering, Lose, Recovering),
    (Recovering, Place, Placing),
    (Recovering, Evict, Queued),
    (Recovering, Pause, Paused),
    (Recovering, Cancel, Cancelling),
    (Recovering, GiveUp, Failed),
    (Paused, Resume, Queued),
    (Paused, Cancel, Cancelling),
    (Publishing, Publish, Succeeded),
    (Publishing, Lose, Recovering),
    (Publishing, Cancel, Cancelling),
    (Publishing, GiveUp, Failed),
    (Cancelling, Stop, Cancelled),
];

/// A trigger that the state does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job in state {state} cannot take \"{trigger}\"")]
pub struct IllegalTransition {
    /// The job's state.
    pub state: State,
    /// What was asked of it.
    pub trigger: Trigger,
}

impl State {
    /// Every state, in the order of a job's life.
    pub const ALL: [Self; 10] = [
        Queued, Placing, Running, Recovering, Paused, Publishing, Cancelling, Succeeded, Failed,
        Cancelled,
    ];

    /// The state after a trigger, by the table.
    pub fn after(self, trigger: Trigger) -> Result<Self, IllegalTransition> {
        TABLE
            .iter()
            .find(|(from, by, _)| *from == self && *by == trigger)
            .map(|(_, _, to)| *to)
            .ok_or(IllegalTransition {
                state: self,
                trigger,
            })
    }

    /// Nothing leaves this state.
    pub fn is_terminal(self) -> bool {
        matches!(self, Succeeded | Failed | Cancelled)
    }

    /// A gang may hold workers for the job; while it recovers, only if there are survivors.
    pub fn has_gang(self) -> bool {
        matches!(self, Placing | Running | Recovering | Publishing)
    }

    /// The state on the wire.
    pub fn wire(self) -> v1::JobState {
        match self {
            Queued => v1::JobState::Queued,
            Placing => v1::JobState::Placing,
            Running => v1::JobState::Running,
            Recovering => v1::JobState::Recovering,
            Paused => v1::JobState::Paused,
            Publishing => v1::JobState::Publishing,
            Cancelling => v1::JobState::Cancelling,
            Succeeded => v1::JobState::Succeeded,
            Failed => v1::JobState::Failed,
            Cancelled => v1::JobState::Cancelled,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Queued => "accepted; waits for workers",
            Placing => "workers are chosen and start their ranks",
            Running => "ranks train",
            Recovering => {
                "part of the gang was lost: its survivors regroup or wait for others; without survivors the \
                 job waits to go on from its last checkpoint"
            }
            Paused => "held back on request, without workers, until it is resumed",
            Publishing => "all steps are done; the model is being measured and published",
            Cancelling => "cancel was asked for; ranks are being stopped",
            Succeeded => "the model is in the registry; terminal",
            Failed => "the job cannot go on; terminal",
            Cancelled => "stopped on request; terminal",
        }
    }
}

impl Trigger {
    /// Every trigger.
    pub const ALL: [Self; 12] = [
        Place, Run, Trained, Regroup, Lose, Evict, Pause, Resume, Publish, Cancel, Stop, GiveUp,
    ];

    fn meaning(self) -> &'static str {
        match self {
            Place => "the scheduler chose a gang",
            Run => "every rank has met its peers, or a checkpoint of theirs has arrived",
            Trained => "the last step was measured",
            Regroup => "part of the gang was lost; the survivors keep what they have in memory",
            Lose => "the gang was lost for good and the budget of restarts allows another",
            Evict => "the gang has left its workers for another job, or a worker that is drained",
            Pause => "a user asked to hold the job back, and its gang has left",
            Resume => "a user asked to go on",
            Publish => "the publish of the model was committed",
            Cancel => "a user asked to stop",
            Stop => "the gang was told to stop",
            GiveUp => "the job is at fault, or its budget of restarts is spent",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Queued => "QUEUED",
            Placing => "PLACING",
            Running => "RUNNING",
            Recovering => "RECOVERING",
            Paused => "PAUSED",
            Publishing => "PUBLISHING",
            Cancelling => "CANCELLING",
            Succeeded => "SUCCEEDED",
            Failed => "FAILED",
            Cancelled => "CANCELLED",
        })
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place => "place",
            Run => "run",
            Trained => "trained",
            Regroup => "regroup",
            Lose => "lose",
            Evict => "evict",
            Pause => "pause",
            Resume => "resume",
            Publish => "publish",
            Cancel => "cancel",
            Stop => "stop",
            GiveUp => "give up",
        })
    }
}

/// `docs/jobs-states.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# The states of a job\n\n\
         Generated from `coordinator/src/job/states.rs` by `make docs`.\n\n\
         | state | meaning |\n|---|---|\n",
    );
    for state in State::ALL {
        text.push_str(&format!("| {state} | {} |\n", state.meaning()));
    }
    text.push_str("\n| trigger | meaning |\n|---|---|\n");
    for trigger in Trigger::ALL {
        text.push_str(&format!("| {trigger} | {} |\n", trigger.meaning()));
    }
    text.push_str("\n| from | trigger | to |\n|---|---|---|\n");
    for (from, trigger, to) in TABLE {
        text.push_str(&format!("| {from} | {trigger} | {to} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn reachable(from: State) -> BTreeSet<State> {
        let mut seen = BTreeSet::from([from]);
        loop {
            let before = seen.len();
            for (source, _, target) in TABLE {
                if seen.contains(source) {
                    seen.insert(*target);
                }
            }
            if seen.len() == before {
                return seen;
            }
        }
    }

    #[test]
    fn a_state_and_a_trigger_have_one_target() {
        let pairs: BTreeSet<_> = TABLE.iter().map(|(from, by, _)| (*from, *by)).collect();
        assert_eq!(pairs.len(), TABLE.len());
    }

    #[test]
    fn every_state_is_reached_and_every_trigger_used() {
        assert_eq!(reachable(Queued), State::ALL.into_iter().collect());
        let used: BTreeSet<_> = TABLE.iter().map(|(_, by, _)| *by).collect();
        assert_eq!(used, Trigger::ALL.into_iter().collect());
    }

    #[test]
    fn a_user_can_stop_every_job_that_has_not_ended() {
        for state in State::ALL {
            let stoppable = state.after(Cancel).is_ok();
            assert_eq!(
                stoppable,
                !state.is_terminal() && state != Cancelling,
                "{state}"
            );
        }
    }

    #[test]
    fn the_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/jobs-states.md");
        let page = std::fs::read_to_string(path).unwrap();
        assert!(
            page == markdown(),
            "docs/jobs-states.md is out of date: run `make docs`"
        );
    }

    proptest! {
        #[test]
        fn any_walk_stays_in_the_table_and_ends_only_in_terminal_states(
            picks in proptest::collection::vec(0..Trigger::ALL.len(), 0..60)
        ) {
            let mut state = Queued;
            for pick in picks {
                let trigger = Trigger::ALL[pick];
                match state.after(trigger) {
                    Ok(next) => {
                        prop_assert!(TABLE.contains(&(state, trigger, next)));
                        state = next;
                    }
                    Err(error) => prop_assert_eq!(error, IllegalTransition { state, trigger }),
                }
                prop_assert!(reachable(state).iter().any(|s| s.is_terminal()));
                prop_assert_eq!(state.is_terminal(), reachable(state).len() == 1);
            }
        }
    }
}
