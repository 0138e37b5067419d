//! A loss while survivors hold the state of the job.

use espalier_proto::v1::session_request::Message;
use espalier_proto::v1::{
    Activity, Formation, Heartbeat, Job, JobEventKind, JobState, RankProgress, RankState,
    RecoveryReport, StartGang,
};

use crate::bench::{Bench, Worker, events, spec};

/// A job whose two ranks run, with its workers and what they were told.
async fn at_work(bench: &Bench, min: u32) -> (Job, [(Worker, StartGang); 2]) {
    let mut workers = [
        Worker::join(bench, "a", "a1", &[]).await,
        Worker::join(bench, "b", "b1", &[]).await,
    ];
    let job = bench.submit("r1", &spec(min, 2)).await.unwrap();
    let mut starts = Vec::new();
    for worker in &mut workers {
        let start = worker.started().await;
        assert_eq!(start.formation(), Formation::Fresh);
        worker.report(&start, RankState::Running).await;
        worker.acked(1).await;
        starts.push(start);
    }
    bench.reach(&job.job_id, JobState::Running).await;
    let mut pairs = workers.into_iter().zip(starts);
    let pairs = [pairs.next().unwrap(), pairs.next().unwrap()];
    (job, pairs)
}

#[tokio::test]
async fn survivors_get_a_new_generation_and_the_lost_are_replaced_at_a_step() {
    let bench = Bench::start().await;
    let (job, [(mut a, first), (mut b, second)]) = at_work(&bench, 1).await;
    let id = job.job_id.as_str();
    a.report(&first, RankState::Failed).await;
    let next = b.started().await;
    assert!(next.generation > second.generation);
    assert_eq!((next.first_rank, next.world_size), (0, 1));
    assert_eq!(
        (next.formation(), &next.seats),
        (Formation::Survivors, &second.seats)
    );
    assert_eq!(a.revoked().await.0, first.generation);
    assert_eq!(bench.job(id).await.state(), JobState::Recovering);

    // What the old generation publishes is refused.
    let stale = bench
        .push(id, first.generation, 5, false)
        .await
        .unwrap_err();
    assert_eq!(stale.code(), Some(tonic::Code::Aborted));
    bench.push(id, next.generation, 5, false).await.unwrap();
    b.report(&next, RankState::Running).await;
    let sequence = b.number();
    b.say(Message::Recovery(RecoveryReport {
        sequence,
        job_id: id.to_owned(),
        generation: next.generation,
        step: 6,
        step_ms: 40,
        ..RecoveryReport::default()
    }))
    .await;
    b.acked(sequence).await;
    let running = bench.reach(id, JobState::Running).await;
    assert_eq!((running.recoveries, running.restarts.len()), (1, 0));
    assert!(
        running.last_recovery.starts_with("recovered in "),
        "{}",
        running.last_recovery
    );
    assert!(
        running
            .last_recovery
            .ends_with("1 survivors at step 6, healed 0, next step done")
    );

    // The free worker prepares a process, which joins without a loss.
    let order = a.recruited().await;
    assert_eq!(order.seats, [3]);
    a.report_seat(id, order.generation, 3, RankState::Ready)
        .await;
    let (grown, joined) = (b.started().await, a.started().await);
    assert_eq!(grown.formation(), Formation::Planned);
    assert_eq!((grown.first_rank, grown.world_size), (0, 2));
    assert_eq!((joined.first_rank, &joined.seats), (1, &vec![3]));
    assert_eq!(bench.job(id).await.state(), JobState::Running);
    a.report(&joined, RankState::Running).await;
    b.report(&grown, RankState::Running).await;
    bench.push(id, grown.generation, 20, true).await.unwrap();
    let feed = bench.feed(id, 0).await;
    let recovered: Vec<_> = events(&feed)
        .into_iter()
        .filter(|event| event.kind() == JobEventKind::Recovered)
        .collect();
    let [event] = recovered[..] else {
        panic!("{recovered:?}");
    };
    let recovery = event.recovery.as_ref().unwrap();
    assert_eq!(
        (recovery.survivors, recovery.step, recovery.step_ms),
        (1, 6, 40)
    );
    let committed: Vec<(u64, u64)> = events(&feed)
        .iter()
        .filter(|event| event.kind() == JobEventKind::StepsCommitted)
        .map(|event| (event.first_step, event.last_step))
        .collect();
    assert_eq!(committed, [(1, 5), (6, 20)]);
}

#[tokio::test]
async fn too_few_survivors_are_held_and_told_again_when_they_come_back() {
    let bench = Bench::start().await;
    let (job, [(mut a, first), (mut b, second)]) = at_work(&bench, 2).await;
    let id = job.job_id.as_str();
    a.report(&first, RankState::Failed).await;
    let held = b.started().await;
    assert_eq!((held.formation(), held.world_size), (Formation::Held, 1));
    assert_eq!(a.revoked().await.0, first.generation);
    let order = a.recruited().await;

    // The survivor's session breaks before it could hear of the next generation.
    drop(b);
    a.report_seat(id, order.generation, order.seats[0], RankState::Ready)
        .await;
    let joined = a.started().await;
    assert_eq!(
        (joined.formation(), joined.world_size),
        (Formation::Survivors, 2)
    );
    let mut back = Worker::join(&bench, "b", "b1", &[(id, held.generation)]).await;
    let next = back.started().await;
    assert_eq!(
        (next.generation, &next.seats),
        (joined.generation, &second.seats)
    );
    assert_eq!(next.first_rank, 0);
    assert_eq!(bench.job(id).await.restarts.len(), 0);
}

#[tokio::test]
async fn nobody_left_is_a_restart_and_a_lost_recruit_is_a_warning() {
    let bench = Bench::start().await;
    let (job, [(mut a, first), (mut b, _)]) = at_work(&bench, 2).await;
    let id = job.job_id.as_str();
    a.report(&first, RankState::Failed).await;
    let held = b.started().await;
    a.revoked().await;
    let order = a.recruited().await;
    a.report_seat(id, order.generation, order.seats[0], RankState::Failed)
        .await;
    let again = a.recruited().await;
    assert!(again.seats[0] > order.seats[0]);
    b.report(&held, RankState::Failed).await;
    // Its recruit has nobody to join.
    assert!(a.revoked().await.0 >= held.generation);
    let fresh = a.started().await;
    assert_eq!(fresh.formation(), Formation::Fresh);
    let placed = bench.job(id).await;
    assert_eq!(placed.restarts.get("infrastructure"), Some(&1));
    bench.push(id, fresh.generation, 20, true).await.unwrap();
    let feed = bench.feed(id, 0).await;
    assert!(
        events(&feed)
            .iter()
            .any(|event| event.reason.starts_with("a recruit on worker a was lost"))
    );
}

#[tokio::test]
async fn a_rank_that_falls_silent_while_its_peer_waits_is_left_behind() {
    let bench = Bench::start().await;
    let (_, [(mut a, first), (mut b, second)]) = at_work(&bench, 1).await;
    let word = |start: &StartGang, activity: Activity, silent_ms: u64| {
        let progress = RankProgress {
            job_id: start.job_id.clone(),
            generation: start.generation,
            seat: start.seats[0],
            activity: activity.into(),
            for_ms: 3500,
            silent_ms,
            ..RankProgress::default()
        };
        Message::Heartbeat(Heartbeat {
            ranks: vec![progress],
        })
    };
    a.say(word(&first, Activity::Working, 3400)).await;
    b.say(word(&second, Activity::Waiting, 100)).await;
    let next = b.started().await;
    assert_eq!(
        (next.formation(), next.world_size),
        (Formation::Survivors, 1)
    );
    let (generation, reason) = a.revoked().await;
    assert_eq!(generation, first.generation);
    assert!(
        reason.starts_with("rank 0 of worker a stalled (silent for 3.4 s)"),
        "{reason}"
    );
}
