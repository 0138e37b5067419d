//! Which checkpoints of a name stay: pure, with the reason for each that goes.

use std::collections::{BTreeMap, BTreeSet};

use espalier_proto::v1::{BestBy, Retention};
use serde::{Deserialize, Serialize};

use crate::{Digest, Kind};

/// What is kept of a name besides what an alias points to or is marked to be kept. 0 keeps all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Policy {
    /// Newest training checkpoints of a job that runs.
    pub(crate) training_running: u32,
    /// Newest training checkpoints of a job that has ended.
    pub(crate) training_ended: u32,
    /// Newest models.
    pub(crate) models: u32,
    /// Best models, besides.
    pub(crate) best: Option<Best>,
}

/// The best models by a figure of the report card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Best {
    /// Path in the report card.
    pub(crate) field: String,
    pub(crate) count: u32,
    pub(crate) smallest: bool,
}

impl Default for Policy {
    /// A job goes on from its last training checkpoint; while it runs, the one before is left to a rank
    /// that is pulling it. Models are what people came for: none goes unless they say so.
    fn default() -> Self {
        Self {
            training_running: 2,
            training_ended: 1,
            models: 0,
            best: None,
        }
    }
}

/// A checkpoint as retention sees it.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) digest: Digest,
    pub(super) kind: Kind,
    pub(super) job: Option<String>,
    /// An alias points to it, or it is marked to be kept.
    pub(super) kept: bool,
    /// The figure of [`Best`], if the card has it.
    pub(super) figure: Option<f64>,
}

/// Checkpoints of one name that go, with the reason; `newest_first` holds all of the name.
pub(super) fn retire(
    policy: &Policy,
    newest_first: &[Candidate],
    has_ended: &BTreeMap<String, bool>,
) -> Vec<(Digest, String)> {
    let best = best(policy, newest_first);
    let mut models = 0;
    let mut training: BTreeMap<Option<&str>, u32> = BTreeMap::new();
    let mut retired = Vec::new();
    for candidate in newest_first {
        let (rank, limit, of) = match candidate.kind {
            Kind::Model => {
                models += 1;
                (models, policy.models, "newest models".to_owned())
            }
            Kind::Training => {
                let job = candidate.job.as_deref();
                let count = training.entry(job).or_default();
                *count += 1;
                // A job that is not known to have ended may go on.
                let ended = job.is_none_or(|job| has_ended.get(job) == Some(&true));
                let (limit, state) = if ended {
                    (policy.training_ended, "has ended")
                } else {
                    (policy.training_running, "runs")
                };
                let of = format!(
                    "newest training checkpoints of job {}, which {state}",
                    job.unwrap_or("(none)")
                );
                (*count, limit, of)
            }
        };
        let beyond = limit > 0 && rank > limit;
        if beyond && !candidate.kept && !best.contains(&candidate.digest) {
            retired.push((candidate.digest, format!("not among the {limit} {of}")));
        }
    }
    retired
}

fn best(policy: &Policy, candidates: &[Candidate]) -> BTreeSet<Digest> {
    let Some(best) = &policy.best else {
        return BTreeSet::new();
    };
    let mut ranked: Vec<(f64, Digest)> = candidates
        .iter()
        .filter(|c| c.kind == Kind::Model)
        .filter_map(|c| Some((c.figure?, c.digest)))
        .collect();
    // Stable: of equal ones the newer is better.
    ranked.sort_by(|(a, _), (b, _)| match best.smallest {
        true => a.total_cmp(b),
        false => b.total_cmp(a),
    });
    let count = best.count as usize;
    ranked.into_iter().take(count).map(|(_, d)| d).collect()
}

impl From<Policy> for Retention {
    fn from(policy: Policy) -> Self {
        Self {
            training_running: policy.training_running,
            training_ended: policy.training_ended,
            models: policy.models,
            best: policy.best.map(|best| BestBy {
                field: best.field,
                count: best.count,
                smallest: best.smallest,
            }),
        }
    }
}

impl TryFrom<Retention> for Policy {
    type Error = String;

    fn try_from(asked: Retention) -> Result<Self, String> {
        let best = asked.best.map(|best| {
            if best.field.is_empty() || best.field.len() > 256 || best.count == 0 {
                return Err("names a field of the report card and a count above 0".to_owned());
            }
            Ok(Best {
                field: best.field,
                count: best.count,
                smallest: best.smallest,
            })
        });
        Ok(Self {
            training_running: asked.training_running,
            training_ended: asked.training_ended,
            models: asked.models,
            best: best.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn training(number: u8, job: &str) -> Candidate {
        Candidate {
            digest: digest(number),
            kind: Kind::Training,
            job: Some(job.to_owned()),
            kept: false,
            figure: None,
        }
    }

    fn model(number: u8, figure: Option<f64>) -> Candidate {
        Candidate {
            kind: Kind::Model,
            figure,
            ..training(number, "j1")
        }
    }

    fn retired(policy: &Policy, candidates: &[Candidate], ended: &[(&str, bool)]) -> Vec<Digest> {
        let ended = ended
            .iter()
            .map(|(job, ended)| ((*job).to_owned(), *ended))
            .collect();
        retire(policy, candidates, &ended)
            .into_iter()
            .map(|(digest, _)| digest)
            .collect()
    }

    #[test]
    fn a_job_that_ended_keeps_its_last_training_checkpoint_and_one_that_runs_two() {
        let policy = Policy::default();
        let three = [3, 2, 1].map(|i| training(i, "j1"));
        assert_eq!(
            retired(&policy, &three, &[("j1", true)]),
            [digest(2), digest(1)]
        );
        assert_eq!(retired(&policy, &three, &[("j1", false)]), [digest(1)]);
        // What cannot be told is treated as running.
        assert_eq!(retired(&policy, &three, &[]), [digest(1)]);
        let models = [model(3, None), model(2, None), model(1, None)];
        assert_eq!(retired(&policy, &models, &[]), []);
        let reasons = retire(&policy, &three, &BTreeMap::from([("j1".to_owned(), true)]));
        assert_eq!(
            reasons[0].1,
            "not among the 1 newest training checkpoints of job j1, which has ended"
        );
    }

    #[test]
    fn what_is_kept_stays_and_still_counts() {
        let policy = Policy::default();
        let mut three = [3, 2, 1].map(|i| training(i, "j1"));
        three[2].kept = true;
        assert_eq!(retired(&policy, &three, &[("j1", true)]), [digest(2)]);
    }

    #[test]
    fn the_best_stay_besides_the_newest() {
        let policy = Policy {
            models: 1,
            best: Some(Best {
                field: "accuracy.per_sample".to_owned(),
                count: 2,
                smallest: false,
            }),
            ..Policy::default()
        };
        let models = [
            model(5, Some(0.1)),
            model(4, Some(0.9)),
            model(3, None),
            model(2, Some(0.9)),
            model(1, Some(0.9)),
        ];
        assert_eq!(retired(&policy, &models, &[]), [digest(3), digest(1)]);
    }
}
