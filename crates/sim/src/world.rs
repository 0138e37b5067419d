//! A cluster from its start to the end of its jobs.

mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use espalier_store::MonotonicClock;
use espalier_store::simulated::Memory;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::checks::{Checks, Told};
use crate::client::{Order, User, steps};
use crate::fabric::Fabric;
use crate::journal::Journal;
use crate::net::Net;
use crate::outside::Ranks;
use crate::plan::{Draw, Fault, Place, Plan, draws};
use nodes::{Cluster, Command};

/// Time after which all jobs must have ended once nothing goes wrong any more.
const LIVELY: Duration = Duration::from_secs(300);
/// As `--leader-ttl-s` is by default.
const LEADER_TTL: Duration = Duration::from_secs(2);
/// Time for ranks to end when their job has.
const CLEAN: Duration = Duration::from_secs(60);
/// Time between two looks whether they have.
const LOOK: Duration = Duration::from_millis(500);

/// Runs a cluster. Its files are in `dir`, which is new.
///
/// # Errors
/// What did not hold.
pub(crate) async fn run(plan: &Plan, dir: &Path, journal: &Journal) -> Result<Told, String> {
    let start = Instant::now();
    let slots: BTreeMap<String, u32> = plan
        .workers
        .iter()
        .enumerate()
        .map(|(index, slots)| (Place::Worker(index).to_string(), *slots))
        .collect();
    let blobs = dir.join("shared").join("blobs");
    let checks = Checks::new(journal.clone(), blobs, slots);
    let memory = Memory::new(Arc::new(MonotonicClock::default()), LEADER_TTL);
    let observer = checks.clone();
    memory.observe(move |applied| observer.applied(applied));
    let orders: Vec<Order> = (1..)
        .zip(&plan.jobs)
        .map(|(seed, job)| Order {
            plan: job.clone(),
            request: format!("00000000-0000-4000-8000-{seed:012}"),
            seed,
        })
        .collect();
    let net = Net::new(plan.seed, plan.network);
    let ranks = Ranks {
        fabric: Fabric::new(net.clone()),
        checks: checks.clone(),
        steps: Arc::new(steps(&orders)),
        rng: Arc::new(Mutex::new(draws(plan.seed, Draw::Ranks))),
        switches: Arc::default(),
    };
    let mut cluster = Cluster::start(plan, dir, &net, &memory, &ranks)?;

    let life = net.live("user");
    let coordinators = cluster.coordinators();
    let mut users = JoinSet::new();
    for (index, order) in orders.iter().cloned().enumerate() {
        let user = User {
            net: net.clone(),
            life: life.clone(),
            checks: checks.clone(),
            memory: memory.clone(),
            asked: coordinators[index % coordinators.len()].clone(),
            coordinators: coordinators.clone(),
        };
        let dir = dir.join("pulled");
        users.spawn(async move { user.follow(order, start, &dir).await });
    }
    let requests: BTreeSet<String> = orders.into_iter().map(|order| order.request).collect();
    let told = checks.clone();
    let ended = async {
        while let Some(followed) = users.join_next().await {
            followed.map_err(|error| error.to_string())?;
        }
        let clean = Instant::now() + CLEAN;
        while Instant::now() < clean && !checks.running().is_empty() {
            sleep(LOOK).await;
        }
        checks.all_over(&requests);
        Ok(())
    };
    let events = async {
        disturb(plan, start, &net, &ranks, &cluster).await;
        sleep(LIVELY).await;
        Err(unfinished(&memory))
    };
    let result = tokio::select! {
        biased;
        what = told.broken() => Err(what),
        ended = ended => ended,
        late = events => late,
    };
    cluster.stop().await;
    // What was found last counts too.
    tokio::select! {
        biased;
        what = told.broken() => Err(what),
        () = std::future::ready(()) => result.map(|()| told.told()),
    }
}

/// Carries out the plan's faults, and then lets the cluster come to rest.
async fn disturb(plan: &Plan, start: Instant, net: &Net, ranks: &Ranks, cluster: &Cluster) {
    for (at, fault) in &plan.faults {
        sleep_until(start + *at).await;
        tracing::info!(?fault, "FAULT");
        strike(*fault, net, ranks, cluster);
    }
    sleep_until(start + plan.calm).await;
    tracing::info!("CALM");
    net.calm();
    ranks.go_on();
}

fn strike(fault: Fault, net: &Net, ranks: &Ranks, cluster: &Cluster) {
    match fault {
        Fault::Kill {
            place,
            silent,
            down,
        } => cluster.order(place, Command::Kill { silent, down }),
        Fault::Stop { coordinator, down } => {
            cluster.order(Place::Coordinator(coordinator), Command::Stop { down });
        }
        Fault::Freeze { place, time } => {
            let (net, name) = (net.clone(), place.to_string());
            net.freeze(&name, true);
            after(time, move || net.freeze(&name, false));
        }
        Fault::Part {
            from,
            to,
            both,
            time,
        } => {
            let (net, from, to) = (net.clone(), from.to_string(), to.to_string());
            net.part(&from, &to, both, true);
            after(time, move || net.part(&from, &to, both, false));
        }
        Fault::Reset { place } => net.reset(&place.to_string()),
        Fault::KillRank { pick } => {
            if let Some((number, switches)) = ranks.pick(pick) {
                tracing::info!(number, "a rank is killed");
                switches.kill.cancel();
            }
        }
        Fault::StallRank { pick, time } => {
            if let Some((number, switches)) = ranks.pick(pick) {
                tracing::info!(number, "a rank is stopped");
                switches.stopped.send_replace(true);
                after(time, move || {
                    switches.stopped.send_replace(false);
                });
            }
        }
        Fault::SlowStore { by, time } => {
            let net = net.clone();
            net.slow_store(by);
            after(time, move || net.slow_store(Duration::ZERO));
        }
    }
}

fn after(time: Duration, act: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        sleep(time).await;
        act();
    });
}

/// The jobs that have not ended.
fn unfinished(memory: &Memory) -> String {
    let entries = memory.entries();
    let jobs = entries.iter().filter(|(key, _)| key.starts_with("jobs/"));
    let told: Vec<String> = jobs
        .filter_map(|(_, entry)| {
            let record: espalier_coordinator::job::Record =
                serde_json::from_slice(&entry.value).ok()?;
            let open = !record.state.is_terminal();
            open.then(|| {
                format!(
                    "job {} is {}: {}",
                    record.job_id, record.state, record.reason
                )
            })
        })
        .collect();
    format!(
        "after {} s in which nothing went wrong not all is done: {}",
        LIVELY.as_secs(),
        told.join("; ")
    )
}
