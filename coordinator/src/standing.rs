//! Whether a worker takes gangs: pure, but for what an operator asks of it.

use std::collections::BTreeMap;
use std::time::Duration;

use espalier_proto::v1;
use serde::{Deserialize, Serialize};

use crate::job::JobId;

/// Faults of a worker's ranks within [`WINDOW`] after which it is excluded, see [`blame`].
pub const FAULTS: usize = 5;

/// How long a fault counts.
pub const WINDOW: Duration = Duration::from_secs(600);

/// Most faults that are kept of a worker.
const KEPT: usize = 64;

/// How long a worker is excluded.
pub const EXCLUDED: Duration = Duration::from_secs(1800);

/// Time that gangs have to go from a worker that is drained, unless the operator gives another.
pub const DRAIN: Duration = Duration::from_secs(600);

/// What stands between a worker and gangs, as stored under `standings/<id>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Faults of its ranks, the oldest first.
    pub faults: Vec<Fault>,
    /// It is excluded, if that time has not come.
    pub excluded: Option<Exclusion>,
    /// An operator lets it run empty.
    pub drain: Option<Drain>,
}

/// A fault of a rank that was not the job's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The job.
    pub job_id: JobId,
    /// Its generation.
    pub generation: u64,
    /// When, milliseconds since 1970.
    pub at: u64,
}

/// No gangs for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exclusion {
    /// Until when, milliseconds since 1970.
    pub until: u64,
    /// Why, in words.
    pub reason: String,
}

/// No gangs until it is resumed, and those that are there have to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// When those that have not gone are evicted, milliseconds since 1970.
    pub deadline: u64,
    /// Why, in words.
    pub reason: String,
}

impl Standing {
    /// Notes a fault of a rank; false if it was known. Those of one generation of a job are one.
    pub fn fault(&mut self, fault: Fault) -> bool {
        let known = |f: &Fault| f.job_id == fault.job_id && f.generation == fault.generation;
        if self.faults.iter().any(known) {
            return false;
        }
        self.faults.retain(|f| counts(f, fault.at));
        if self.faults.len() >= KEPT {
            self.faults.remove(0);
        }
        self.faults.push(fault);
        true
    }

    /// Excludes the worker from a wall time on; gives the reason. The last fault was for this cause.
    pub fn exclude(&mut self, wall: u64, cause: &str) -> String {
        let reason = format!(
            "its ranks failed {FAULTS} times within {} min where others did not, the last time: {cause}",
            WINDOW.as_secs() / 60
        );
        self.excluded = Some(Exclusion {
            until: wall + EXCLUDED.as_millis() as u64,
            reason: reason.clone(),
        });
        reason
    }

    /// It takes gangs at a wall time.
    pub fn is_open(&self, wall: u64) -> bool {
        self.drain.is_none() && self.exclusion(wall).is_none()
    }

    /// Faults that count against it.
    pub fn count(&self, wall: u64) -> u32 {
        self.faults
            .iter()
            .filter(|fault| counts(fault, wall))
            .count() as u32
    }

    fn exclusion(&self, wall: u64) -> Option<&Exclusion> {
        self.excluded
            .as_ref()
            .filter(|excluded| wall < excluded.until)
    }

    /// How it stands while so many of its slots are in use, and why.
    pub fn told(&self, wall: u64, used: u32) -> (v1::Standing, String) {
        match (&self.drain, self.exclusion(wall)) {
            (Some(drain), _) if used == 0 => (v1::Standing::Drained, drain.reason.clone()),
            (Some(drain), _) => (v1::Standing::Draining, drain.reason.clone()),
            (None, Some(excluded)) => {
                let minutes = (excluded.until - wall).div_ceil(60_000);
                let text = format!("{}; for {minutes} more min", excluded.reason);
                (v1::Standing::Excluded, text)
            }
            (None, None) => (v1::Standing::Open, String::new()),
        }
    }
}

/// How many of a worker's faults are its own at a wall time. A job that fails elsewhere as well is to blame
/// for as many of its faults here as it has had on the worst of the others, so that it does not take one
/// worker after another out of use.
pub fn blame<'s>(own: &Standing, others: impl Iterator<Item = &'s Standing>, wall: u64) -> usize {
    let mut worst: BTreeMap<&str, usize> = BTreeMap::new();
    for (job, faults) in others.flat_map(|other| by_job(other, wall)) {
        let most = worst.entry(job).or_default();
        *most = faults.max(*most);
    }
    let own = by_job(own, wall).into_iter();
    own.map(|(job, faults)| faults.saturating_sub(worst.get(job).copied().unwrap_or(0)))
        .sum()
}

fn by_job(standing: &Standing, wall: u64) -> BTreeMap<&str, usize> {
    let mut jobs: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in standing.faults.iter().filter(|fault| counts(fault, wall)) {
        *jobs.entry(fault.job_id.as_str()).or_default() += 1;
    }
    jobs
}

fn counts(fault: &Fault, wall: u64) -> bool {
    wall.saturating_sub(fault.at) < WINDOW.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(generation: u64, at: u64) -> Fault {
        Fault {
            job_id: JobId::numbered(1),
            generation,
            at,
        }
    }

    #[test]
    fn faults_in_a_row_exclude_for_a_while() {
        let mut standing = Standing::default();
        for generation in 1..FAULTS as u64 {
            assert!(standing.fault(fault(generation, 1000 * generation)));
        }
        // The other ranks of one generation, and what is told twice.
        assert!(!standing.fault(fault(1, 9000)));
        assert_eq!(standing.count(9000), 4);
        assert_eq!(blame(&standing, [].into_iter(), 9000), 4);
        assert!(standing.fault(fault(9, 9000)));
        assert_eq!(blame(&standing, [].into_iter(), 9000), FAULTS);
        assert!(standing.is_open(9000));
        let reason = standing.exclude(9000, "signal 9");
        let (told, why) = standing.told(9000, 3);
        assert_eq!(told, v1::Standing::Excluded);
        assert_eq!(why, format!("{reason}; for 30 more min"));
        let end = 9000 + EXCLUDED.as_millis() as u64;
        assert!(!standing.is_open(end - 1));
        assert!(standing.is_open(end));
    }

    #[test]
    fn faults_far_apart_do_not_add_up() {
        let mut standing = Standing::default();
        let apart = WINDOW.as_millis() as u64 / (FAULTS as u64 - 1);
        for generation in 0..50 {
            let now = generation * apart;
            assert!(standing.fault(fault(generation, now)));
            assert!(blame(&standing, [].into_iter(), now) < FAULTS);
        }
    }

    #[test]
    fn a_job_that_fails_everywhere_is_to_blame_itself() {
        let of = |faults: u64| {
            let mut standing = Standing::default();
            for generation in 0..faults {
                standing.fault(fault(generation, 5));
            }
            standing
        };
        let (here, there) = (of(7), of(5));
        assert_eq!(blame(&here, [&there].into_iter(), 5), 2);
        assert_eq!(blame(&there, [&here].into_iter(), 5), 0);
    }

    #[test]
    fn a_drained_worker_says_when_it_is_empty() {
        let standing = Standing {
            drain: Some(Drain {
                deadline: 5,
                reason: "new disk".to_owned(),
            }),
            ..Standing::default()
        };
        assert!(!standing.is_open(1) && !standing.is_open(99));
        let reason = || "new disk".to_owned();
        assert_eq!(standing.told(1, 2), (v1::Standing::Draining, reason()));
        assert_eq!(standing.told(1, 0), (v1::Standing::Drained, reason()));
    }
}
