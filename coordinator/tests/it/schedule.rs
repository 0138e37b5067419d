//! A cluster that several share: who goes first, what is taken from whom, who is held back, and which
//! workers take no gangs.

use std::time::Duration;

use espalier_coordinator::Options;
use espalier_proto::v1::{
    DeleteQueueRequest, DrainWorkerRequest, FaultKind, Formation, Job, JobEventKind, JobState,
    ListQueuesRequest, ListWorkersRequest, PauseJobRequest, Queue, RankState, ResumeJobRequest,
    ResumeWorkerRequest, SetQueueRequest, Standing, StartGang, Worker as Listed,
};
use tonic::Code;

use crate::bench::{Bench, PATIENCE, Worker, events, spec, spec_with};

/// A job on these workers whose ranks run, and what they were told.
async fn at_work(bench: &Bench, spec: &str, workers: &mut [&mut Worker]) -> (Job, Vec<StartGang>) {
    let job = bench.submit("at-work", spec).await.unwrap();
    let mut starts = Vec::new();
    for worker in workers {
        let start = worker.started().await;
        worker.report(&start, RankState::Running).await;
        starts.push(start);
    }
    (bench.reach(&job.job_id, JobState::Running).await, starts)
}

async fn listed(bench: &Bench, id: &str) -> Listed {
    let mut workers = bench.workers().await;
    let answer = workers.list_workers(ListWorkersRequest {}).await.unwrap();
    let listed = answer.into_inner().workers;
    listed.into_iter().find(|w| w.worker_id == id).unwrap()
}

async fn pause(bench: &Bench, id: &str) -> Result<Job, tonic::Status> {
    let request = PauseJobRequest {
        job_id: id.to_owned(),
        reason: "the disk is full".to_owned(),
    };
    let answer = bench.jobs().await.pause_job(request).await?;
    Ok(answer.into_inner().job.unwrap())
}

async fn resume(bench: &Bench, id: &str) -> Result<Job, tonic::Status> {
    let job_id = id.to_owned();
    let request = ResumeJobRequest { job_id };
    let answer = bench.jobs().await.resume_job(request).await?;
    Ok(answer.into_inner().job.unwrap())
}

#[tokio::test]
async fn an_elastic_gang_gives_a_worker_to_a_higher_priority_and_loses_nothing() {
    let bench = Bench::start().await;
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    let mut b = Worker::join(&bench, "b", "b1", &[]).await;
    let (low, starts) = at_work(&bench, &spec(1, 2), &mut [&mut a, &mut b]).await;
    bench
        .submit("high", &spec_with(1, 1, "priority = 5"))
        .await
        .unwrap();
    let smaller = a.started().await;
    assert_eq!(
        (smaller.formation(), smaller.world_size, &smaller.seats),
        (Formation::Planned, 1, &starts[0].seats)
    );
    let (ended, reason) = b.revoked().await;
    assert_eq!(ended, starts[1].generation);
    assert_eq!(
        reason,
        "job j00000002 has a higher priority (5 over 0); 1 of 2 ranks go on"
    );
    let high = b.started().await;
    assert_eq!(
        (high.job_id.as_str(), high.generation),
        // One transaction.
        ("j00000002", smaller.generation)
    );
    let stays = bench.job(&low.job_id).await;
    assert_eq!((stays.state(), stays.recoveries), (JobState::Running, 0));
    assert!(stays.restarts.is_empty());

    // It grows again once nobody waits.
    a.report(&smaller, RankState::Running).await;
    b.report(&high, RankState::Running).await;
    bench
        .push("j00000002", high.generation, 20, true)
        .await
        .unwrap();
    assert_eq!(b.revoked().await.0, high.generation);
    assert_eq!(b.recruited().await.job_id, low.job_id);
}

#[tokio::test]
async fn a_rigid_gang_leaves_after_a_checkpoint_and_comes_back_to_it() {
    let bench = Bench::start().await;
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    let (low, starts) = at_work(&bench, &spec(1, 1), &mut [&mut a]).await;
    let start = &starts[0];
    let high = bench
        .submit("high", &spec_with(1, 1, "priority = 5"))
        .await
        .unwrap();
    assert_eq!(a.told_to_halt().await.generation, start.generation);
    let leaving = bench.job(&low.job_id).await;
    assert_eq!(leaving.state(), JobState::Running);
    assert_eq!(
        leaving.reason,
        "evicted: job j00000002 has a higher priority (5 over 0)"
    );
    // A session that breaks in between is told again.
    drop(a);
    let mut a = Worker::join(&bench, "a", "a1", &[(&low.job_id, start.generation)]).await;
    assert_eq!(a.told_to_halt().await.generation, start.generation);
    let digest = bench
        .push(&low.job_id, start.generation, 7, false)
        .await
        .unwrap();
    a.number();
    a.report(start, RankState::Halted).await;
    assert_eq!(a.revoked().await.0, start.generation);
    let taken = a.started().await;
    assert_eq!(taken.job_id, high.job_id);
    let waits = bench.job(&low.job_id).await;
    assert_eq!(waits.state(), JobState::Queued);
    assert_eq!(waits.restarts.get("eviction"), Some(&1));

    a.report(&taken, RankState::Running).await;
    bench
        .push(&high.job_id, taken.generation, 20, true)
        .await
        .unwrap();
    assert_eq!(a.revoked().await.0, taken.generation);
    let again = a.started().await;
    assert_eq!(
        (again.job_id, again.resume_digest, again.committed_step),
        (low.job_id, digest, 7)
    );
}

#[tokio::test]
async fn a_gang_that_makes_no_checkpoint_in_time_leaves_all_the_same() {
    let bench = Bench::with(Options {
        leave: Duration::from_millis(200),
        ..Options::default()
    })
    .await;
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    let (job, starts) = at_work(&bench, &spec(1, 1), &mut [&mut a]).await;
    pause(&bench, &job.job_id).await.unwrap();
    a.told_to_halt().await;
    assert_eq!(a.revoked().await.0, starts[0].generation);
    let paused = bench.reach(&job.job_id, JobState::Paused).await;
    assert_eq!(
        paused.reason,
        "paused by a user: the disk is full; its checkpoint did not come within 0 s, the last one counts"
    );
}

#[tokio::test]
async fn a_pause_holds_over_a_restart_and_its_end_keeps_the_place() {
    let mut bench = Bench::start().await;
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    let (job, starts) = at_work(&bench, &spec(1, 1), &mut [&mut a]).await;
    let id = job.job_id.as_str();
    let start = &starts[0];
    let pausing = pause(&bench, id).await.unwrap();
    assert_eq!(pausing.state(), JobState::Running);
    a.told_to_halt().await;

    // The order holds over a restart of the coordinator.
    bench.restart().await;
    let mut a = Worker::join(&bench, "a", "a1", &[(id, start.generation)]).await;
    a.told_to_halt().await;
    bench.push(id, start.generation, 9, false).await.unwrap();
    a.number();
    a.report(start, RankState::Halted).await;
    assert_eq!(a.revoked().await.0, start.generation);
    let paused = bench.reach(id, JobState::Paused).await;
    assert_eq!(paused.reason, "paused by a user: the disk is full");
    bench.restart().await;
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    assert_eq!(bench.job(id).await.state(), JobState::Paused);
    assert_eq!(pause(&bench, id).await.unwrap().state(), JobState::Paused);

    // Another takes the worker; when it has ended the first is ahead of one that came later.
    let other = bench.submit("other", &spec(1, 1)).await.unwrap();
    let taken = a.started().await;
    assert_eq!(taken.job_id, other.job_id);
    bench.submit("later", &spec(1, 1)).await.unwrap();
    assert_eq!(resume(&bench, id).await.unwrap().state(), JobState::Queued);
    a.report(&taken, RankState::Running).await;
    bench
        .push(&other.job_id, taken.generation, 20, true)
        .await
        .unwrap();
    a.revoked().await;
    let again = a.started().await;
    assert_eq!((again.job_id.as_str(), again.committed_step), (id, 9));
    a.report(&again, RankState::Running).await;
    bench.push(id, again.generation, 20, true).await.unwrap();
    let refused = pause(&bench, id).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused
            .message()
            .contains("is SUCCEEDED and cannot be paused")
    );
    assert_eq!(
        resume(&bench, id).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let feed = bench.feed(id, 0).await;
    let committed: Vec<(u64, u64)> = events(&feed)
        .iter()
        .filter(|event| event.kind() == JobEventKind::StepsCommitted)
        .map(|event| (event.first_step, event.last_step))
        .collect();
    assert_eq!(committed, [(1, 9), (10, 20)]);
}

#[tokio::test]
async fn a_drained_worker_is_replaced_then_left_and_says_that_it_is_empty() {
    let mut bench = Bench::start().await;
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    let mut b = Worker::join(&bench, "b", "b1", &[]).await;
    let (job, starts) = at_work(&bench, &spec(2, 2), &mut [&mut a, &mut b]).await;
    let id = job.job_id.as_str();
    let drain = DrainWorkerRequest {
        worker_id: "b".to_owned(),
        reason: "new disk".to_owned(),
        deadline_s: 0,
    };
    let told = bench.workers().await.drain_worker(drain).await.unwrap();
    let told = told.into_inner().worker.unwrap();
    assert_eq!(told.standing(), Standing::Draining);
    assert_eq!(told.standing_reason, "drained by an operator: new disk");

    // Its job needs two workers: the next that comes takes the place, and no step is lost.
    let mut c = Worker::join(&bench, "c", "c1", &[]).await;
    let order = c.recruited().await;
    c.report_seat(id, order.generation, order.seats[0], RankState::Ready)
        .await;
    let next = a.started().await;
    assert_eq!((next.formation(), next.world_size), (Formation::Planned, 2));
    assert_eq!(c.started().await.generation, next.generation);
    assert_eq!(b.revoked().await.0, starts[1].generation);
    let moved = bench.job(id).await;
    assert_eq!(
        (moved.state(), moved.worker_ids),
        (JobState::Running, vec!["a".to_owned(), "c".to_owned()])
    );
    assert_eq!(listed(&bench, "b").await.standing(), Standing::Drained);

    // It gets nothing, not after a restart either, until it is resumed.
    bench.restart().await;
    let _b = Worker::join(&bench, "b", "b1", &[]).await;
    assert_eq!(listed(&bench, "b").await.standing(), Standing::Drained);
    let open = async |id: &str| {
        let worker_id = id.to_owned();
        let request = ResumeWorkerRequest { worker_id };
        bench.workers().await.resume_worker(request).await
    };
    let opened = open("b").await.unwrap().into_inner().worker.unwrap();
    assert_eq!(opened.standing(), Standing::Open);
    assert_eq!(open("x").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_gang_above_its_fewest_goes_on_without_a_drained_worker_and_others_go_at_the_deadline() {
    let bench = Bench::start().await;
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    let mut b = Worker::join(&bench, "b", "b1", &[]).await;
    let (job, starts) = at_work(&bench, &spec(1, 2), &mut [&mut a, &mut b]).await;
    let drain = async |worker: &str, deadline_s| {
        let request = DrainWorkerRequest {
            worker_id: worker.to_owned(),
            reason: String::new(),
            deadline_s,
        };
        bench.workers().await.drain_worker(request).await.unwrap();
    };
    drain("b", 600).await;
    let alone = a.started().await;
    assert_eq!(
        (alone.formation(), alone.world_size),
        (Formation::Planned, 1)
    );
    assert_eq!(b.revoked().await.0, starts[1].generation);
    a.report(&alone, RankState::Running).await;
    // Nobody can take the last place.
    drain("a", 1).await;
    a.told_to_halt().await;
    bench
        .push(&job.job_id, alone.generation, 5, false)
        .await
        .unwrap();
    a.report(&alone, RankState::Halted).await;
    assert_eq!(a.revoked().await.0, alone.generation);
    let waits = bench.reach(&job.job_id, JobState::Queued).await;
    assert_eq!(waits.committed_step, 5);
    assert_eq!(listed(&bench, "a").await.standing(), Standing::Drained);
}

#[tokio::test]
async fn a_worker_whose_ranks_fail_again_and_again_is_excluded_until_it_is_resumed() {
    let mut bench = Bench::start().await;
    let job = bench.submit("r1", &spec(1, 1)).await.unwrap();
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    let mut last = 0;
    for _ in 0..5 {
        let start = a.started().await;
        assert!(start.generation > last);
        last = start.generation;
        a.report_with(&start, |report| {
            report.set_state(RankState::Failed);
            report.set_fault(FaultKind::Infrastructure);
            report.reason = "killed by signal 9".to_owned();
        })
        .await;
        a.revoked().await;
    }
    let excluded = async {
        while listed(&bench, "a").await.standing() != Standing::Excluded {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, excluded).await.unwrap();
    let why = listed(&bench, "a").await.standing_reason;
    assert!(
        why.starts_with("its ranks failed 5 times within 10 min where others did not, the last time: job j00000001: killed by signal 9"),
        "{why}"
    );
    bench.restart().await;
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    assert_eq!(listed(&bench, "a").await.standing(), Standing::Excluded);
    assert_eq!(bench.job(&job.job_id).await.state(), JobState::Recovering);
    let worker_id = "a".to_owned();
    let request = ResumeWorkerRequest { worker_id };
    bench.workers().await.resume_worker(request).await.unwrap();
    assert!(a.started().await.generation > last);
    assert_eq!(listed(&bench, "a").await.faults, 0);
}

#[tokio::test]
async fn queues_are_set_by_operators_and_kept() {
    let mut bench = Bench::start().await;
    let of_team = spec_with(1, 1, "queue = \"team\"");
    let refused = bench.submit("r1", &of_team).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.message(),
        "resources.queue: there is no queue `team`; there is only `default`"
    );
    let queue = Queue {
        name: "team".to_owned(),
        weight: 2,
        cpu_quota: Some(1),
        ..Queue::default()
    };
    let set = async |bench: &Bench, queue: Queue| {
        let request = SetQueueRequest { queue: Some(queue) };
        bench.jobs().await.set_queue(request).await
    };
    let mut wrong = queue.clone();
    wrong.weight = 0;
    let refused = set(&bench, wrong).await.unwrap_err();
    assert_eq!(refused.message(), "queue.weight: must be 1 to 1000000");
    set(&bench, queue).await.unwrap();
    bench.restart().await;
    bench.submit("r1", &of_team).await.unwrap();
    bench.submit("r2", &of_team).await.unwrap();
    let mut a = Worker::join(&bench, "a", "a1", &[]).await;
    let _b = Worker::join(&bench, "b", "b1", &[]).await;
    a.started().await;
    let waits = async {
        let wanted = "queue team is at its quota of 1 cpu slots: 1 are in use, the job needs 1";
        while bench.job("j00000002").await.reason != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.unwrap();
    let queues = bench.jobs().await.list_queues(ListQueuesRequest {}).await;
    let queues = queues.unwrap().into_inner().queues;
    let told: Vec<_> = queues
        .iter()
        .map(|q| (q.name.as_str(), q.weight, q.cpu_used, q.waiting, q.running))
        .collect();
    assert_eq!(told, [("default", 1, 0, 0, 0), ("team", 2, 1, 1, 1)]);
    let delete = async |name: &str| {
        let name = name.to_owned();
        let request = DeleteQueueRequest { name };
        bench.jobs().await.delete_queue(request).await
    };
    let refused = delete("team").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().starts_with("queue team has 2 jobs"));
    assert_eq!(delete("x").await.unwrap_err().code(), Code::NotFound);
}
