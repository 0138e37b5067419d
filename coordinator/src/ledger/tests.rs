use espalier_proto::v1::watch_job_response::Entry;
use espalier_proto::v1::{JobEventKind, JobState};
use espalier_store::{Leader, Options, Outcome, Txn};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;
use crate::clock::Clock;
use crate::control::Control;
use crate::feed;
use crate::job::{Demand, Member, Record};
use crate::membership::Limits;

struct Bench {
    leader: Leader,
    ledger: Ledger,
    id: JobId,
}

impl Bench {
    /// A job whose gang has been placed.
    async fn placed() -> Self {
        let store = Store::in_memory(Options::default()).await.unwrap();
        let leader = store.campaign("test").await.unwrap();
        let limits = Limits {
            lease_ttl: std::time::Duration::from_secs(5),
            start: std::time::Duration::from_secs(5),
            infrastructure_restarts: 1,
            recoveries: 1,
            hold: std::time::Duration::from_secs(5),
            leave: std::time::Duration::from_secs(5),
        };
        let (_, control) = Control::load(leader.clone(), Clock::start(), limits)
            .await
            .unwrap();
        let id = JobId::numbered(1);
        let bench = Self {
            leader,
            ledger: Ledger::new(store, control),
            id: id.clone(),
        };
        let mut record = record(id);
        record.total_steps = 30;
        bench.write(Edit::accept(record, 0)).await;
        bench.place().await;
        bench
    }

    async fn write(&self, edit: Edit) {
        let txn = edit.into_txn(self.leader.store()).await.unwrap();
        let outcome = self.leader.commit(txn).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)));
    }

    async fn job(&self) -> Snapshot {
        Snapshot::load(self.leader.store(), &self.id)
            .await
            .unwrap()
            .unwrap()
    }

    async fn place(&self) {
        let mut edit = Edit::of(self.job().await, 0);
        let member = Member {
            worker_id: "w".to_owned(),
            incarnation: "i".to_owned(),
            first_rank: 0,
            seats: vec![edit.seat()],
        };
        edit.place(vec![member], "test").unwrap();
        self.write(edit).await;
    }

    async fn lose(&self) {
        let mut edit = Edit::of(self.job().await, 0);
        edit.revoke("test").unwrap();
        edit.trigger(Trigger::Lose, "test").unwrap();
        self.write(edit).await;
    }

    fn commit(&self, generation: u64, step: u64, last: bool) -> StepCommit {
        StepCommit {
            job_id: self.id.to_string(),
            generation,
            step,
            r#final: last,
        }
    }

    async fn publish(&self, commit: &StepCommit, digest: &str) -> Result<(), Status> {
        let name = if commit.r#final {
            "model".to_owned()
        } else {
            format!("job-{}", commit.job_id)
        };
        let plan = self.ledger.prepare(commit, digest, &name).await?;
        let txn = Txn {
            compares: plan.compares,
            ops: plan.ops,
        };
        let outcome = self.leader.commit(txn).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)));
        Ok(())
    }

    async fn ranges(&self) -> Vec<(u64, u64)> {
        let page = feed::read(self.leader.store(), &self.id, 0).await.unwrap();
        page.entries
            .into_iter()
            .filter_map(|entry| match entry.entry {
                Some(Entry::Event(event)) if event.kind() == JobEventKind::StepsCommitted => {
                    Some((event.first_step, event.last_step))
                }
                _ => None,
            })
            .collect()
    }
}

fn record(id: JobId) -> Record {
    Record {
        job_id: id,
        name: "test".to_owned(),
        state: State::Queued,
        reason: String::new(),
        spec_toml: String::new(),
        demand: Demand {
            device: espalier_job::Device::Cpu,
            min_workers: 1,
            max_workers: 1,
            ranks_per_worker: 1,
            publish_name: "model".to_owned(),
            queue: "default".to_owned(),
            priority: 0,
            straggler: Default::default(),
        },
        created: 0,
        ended: None,
        last_generation: 0,
        last_workers: Vec::new(),
        committed_step: 0,
        total_steps: 0,
        checkpoint_digest: String::new(),
        published_digest: String::new(),
        infrastructure_restarts: 0,
        ranks: Default::default(),
        rendezvous: None,
        seats: 0,
        recruits: Vec::new(),
        recoveries: 0,
        recent_recoveries: Vec::new(),
        recovery: None,
        last_recovery: String::new(),
        leave: None,
        evictions: 0,
        guest_of: None,
    }
}

#[tokio::test]
async fn every_step_is_committed_once_over_restarts() {
    let bench = Bench::placed().await;
    let first = bench.job().await.generation();
    bench
        .publish(&bench.commit(first, 10, false), "a")
        .await
        .unwrap();
    assert_eq!(bench.job().await.record.state, State::Running);
    bench.lose().await;
    bench.place().await;
    let second = bench.job().await.generation();
    assert!(second > first);
    bench
        .publish(&bench.commit(second, 20, false), "b")
        .await
        .unwrap();
    bench
        .publish(&bench.commit(second, 30, true), "m")
        .await
        .unwrap();
    assert_eq!(bench.ranges().await, [(1, 10), (11, 20), (21, 30)]);
    let job = bench.job().await;
    assert_eq!(job.record.state, State::Succeeded);
    assert_eq!(job.record.published_digest, "m");
    assert_eq!(job.generation(), second);
    assert!(job.gang.is_none());
    let page = feed::read(bench.leader.store(), &bench.id, 0)
        .await
        .unwrap();
    let last = page.entries.last().unwrap();
    assert!(feed::is_terminal(last));
    let Some(Entry::Event(event)) = &last.entry else {
        panic!("the last entry is no event");
    };
    assert_eq!(event.state(), JobState::Succeeded);
}

#[tokio::test]
async fn a_generation_that_is_over_commits_nothing() {
    let bench = Bench::placed().await;
    let stale = bench.job().await.generation();
    bench.lose().await;
    for place_again in [false, true] {
        if place_again {
            bench.place().await;
        }
        let refused = bench
            .publish(&bench.commit(stale, 10, false), "a")
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Aborted);
        assert_eq!(
            refused.get_details_error_info().unwrap().reason,
            "STALE_GENERATION"
        );
    }
    assert!(bench.ranges().await.is_empty());
}

#[tokio::test]
async fn a_plan_made_before_the_gang_ended_does_not_commit() {
    let bench = Bench::placed().await;
    let commit = bench.commit(bench.job().await.generation(), 10, false);
    let name = format!("job-{}", bench.id);
    let plan = bench.ledger.prepare(&commit, "a", &name).await.unwrap();
    bench.lose().await;
    let txn = Txn {
        compares: plan.compares,
        ops: plan.ops,
    };
    assert_eq!(bench.leader.commit(txn).await.unwrap(), Outcome::Conflict);
}

#[tokio::test]
async fn commits_that_do_not_fit_name_the_field() {
    let bench = Bench::placed().await;
    let generation = bench.job().await.generation();
    bench
        .publish(&bench.commit(generation, 10, false), "a")
        .await
        .unwrap();
    let table = [
        (
            9,
            false,
            "commit.step: step 9 is not after the last committed step 10",
        ),
        (
            10,
            false,
            "commit.step: step 10 is not after the last committed step 10",
        ),
        (
            31,
            false,
            "commit.step: step 31 is beyond the job's last step 30",
        ),
        (
            20,
            true,
            "commit.step: the model is made at step 20, before the job's last step 30",
        ),
    ];
    for (step, last, message) in table {
        let refused = bench
            .publish(&bench.commit(generation, step, last), "other")
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.message(), message);
        let violations = refused.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "commit.step");
    }
    let name = bench
        .ledger
        .prepare(&bench.commit(generation, 20, false), "b", "elsewhere")
        .await
        .err()
        .unwrap();
    assert_eq!(
        name.message(),
        "name: this job publishes as `job-j00000001`, not `elsewhere`"
    );
    let mut unknown = bench.commit(generation, 20, false);
    "j9".clone_into(&mut unknown.job_id);
    let refused = bench.publish(&unknown, "b").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "there is no job j9")
    );
}

#[tokio::test]
async fn repeats_of_the_last_commit_change_no_ledger() {
    let bench = Bench::placed().await;
    let generation = bench.job().await.generation();
    for _ in 0..2 {
        bench
            .publish(&bench.commit(generation, 30, false), "a")
            .await
            .unwrap();
    }
    bench
        .publish(&bench.commit(generation, 30, true), "m")
        .await
        .unwrap();
    assert_eq!(bench.ranges().await, [(1, 30)]);
    assert_eq!(bench.job().await.record.state, State::Succeeded);
}
