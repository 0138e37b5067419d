//! A job as the coordinator keeps it: the table of its states, its stored record, and the edits that
//! change record, gang and feed in one transaction.

mod edit;
mod record;
mod snapshot;
pub mod states;

pub(crate) use edit::{Edit, Placed};
pub use record::{
    Demand, Formation, Gang, JobId, Leave, Member, RankPhase, Record, Recovery, Recruit, Seat, Then,
};
pub(crate) use snapshot::Snapshot;
pub use states::{IllegalTransition, State, Trigger};
