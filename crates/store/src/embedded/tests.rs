use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use crate::conformance::{self, Fresh, Time};
use crate::{Compare, ManualClock, Op, Options, Outcome, Range, Revision, Store};

use super::*;

fn options(clock: &Arc<ManualClock>) -> Options {
    Options {
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        sweep: Duration::from_millis(5),
        ..Options::default()
    }
}

fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Txn {
    Txn::new().then(Op::put(key, value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_memory_conforms() {
    conformance::run(|| async {
        let clock = Arc::new(ManualClock::default());
        let store = Store::in_memory(options(&clock)).await.expect("opens");
        Fresh {
            store,
            time: Time::Manual(clock),
        }
    })
    .await;
}

#[tokio::test]
async fn the_store_in_a_file_conforms() {
    let dir = tempfile::tempdir().expect("tempdir");
    let count = std::sync::atomic::AtomicU32::new(0);
    conformance::run(|| async {
        let clock = Arc::new(ManualClock::default());
        let n = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.path().join(format!("{n}.redb"));
        let store = Store::open(path, options(&clock)).await.expect("opens");
        Fresh {
            store,
            time: Time::Manual(clock),
        }
    })
    .await;
}

#[tokio::test]
async fn everything_is_there_after_reopening_and_leases_start_anew() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("state.redb");
    let clock = Arc::new(ManualClock::default());
    let store = Store::open(&path, options(&clock)).await.expect("opens");
    let leader = store.campaign("a").await.expect("leads");
    let lease = store.grant(Duration::from_secs(5)).await.expect("grants");
    let txn = put("k", "1").then(Op::put_leased("l", "1", lease));
    let outcome = leader.commit(txn).await.expect("commits");
    clock.advance(Duration::from_secs(4));
    store.close().await;

    let store = Store::open(&path, options(&clock)).await.expect("opens");
    let entry = store.get("k").await.expect("reads").expect("there");
    assert_eq!(Outcome::Committed(entry.mod_revision), outcome);
    clock.advance(Duration::from_secs(4));
    store.keep_alive(lease).await.expect("renewed by opening");
    let mut watch = store.watch("l", entry.mod_revision).expect("watches");
    assert_eq!(watch.next().await.expect("kept").changes.len(), 1);
    clock.advance(Duration::from_secs(5));
    assert_eq!(watch.next().await.expect("expires").changes.len(), 1);
    assert_eq!(store.get("l").await.expect("reads"), None);
    // Revisions and leases go on, and never come twice.
    let leader = store.campaign("b").await.expect("leads");
    assert!(leader.fence() > entry.mod_revision);
    assert!(store.grant(Duration::from_secs(5)).await.expect("grants") > lease);
}

#[tokio::test]
async fn a_file_in_use_or_that_is_none_of_ours_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("state.redb");
    let store = Store::open(&path, Options::default()).await.expect("opens");
    let error = Store::open(&path, Options::default())
        .await
        .expect_err("in use");
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("state.redb"), "{error}");
    drop(store);
    Store::open(&path, Options::default())
        .await
        .expect("free again");
    let path = dir.path().join("other");
    std::fs::write(
        &path,
        "not a database, but long enough to look like one".repeat(200),
    )
    .expect("writes");
    let error = Store::open(&path, Options::default())
        .await
        .expect_err("no store");
    assert!(
        error.to_string().contains("cannot open the store"),
        "{error}"
    );
}

#[tokio::test]
async fn the_change_log_is_bounded_and_who_falls_behind_is_told() {
    let by_revisions = Options {
        log_revisions: 10,
        ..Options::default()
    };
    let by_bytes = Options {
        log_bytes: 10 * 8,
        ..Options::default()
    };
    for options in [by_revisions, by_bytes] {
        let store = Store::in_memory(options).await.expect("opens");
        let mut watch = store.watch("k/", Revision(1)).expect("watches");
        let leader = store.campaign("a").await.expect("leads");
        let mut latest = leader.fence();
        for i in 0..100 {
            // Keys and values of 8 bytes in all.
            let outcome = leader.commit(put(format!("k/{i:03}"), "abc")).await;
            let Outcome::Committed(revision) = outcome.expect("commits") else {
                panic!("conflict");
            };
            latest = revision;
        }
        let Err(StoreError::Compacted { oldest }) = watch.next().await else {
            panic!("not told");
        };
        assert_eq!(oldest, Revision(latest.0 - 9));
        let mut watch = store.watch("k/", oldest).expect("watches");
        for revision in oldest.0..=latest.0 {
            assert_eq!(watch.next().await.expect("kept").revision.0, revision);
        }
        let page = store.range(Range::prefix("k/")).await.expect("reads");
        assert_eq!(page.entries.len(), 100);
    }
}

/// Set in the child process of the test below: the file to write to.
const CHILD: &str = "ESPALIER_STORE_KILL_TEST";

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Some(path) = std::env::var_os(CHILD) {
        write_until_killed(Path::new(&path));
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("state.redb");
    let mut acknowledged = Vec::new();
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args([
                "--exact",
                "embedded::tests::what_was_acknowledged_survives_kill_9",
            ])
            .args(["--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut seen = 0;
        for line in lines {
            let line = line.expect("reads");
            // The test harness prints lines of its own, and may begin one that the child ends.
            if let Some((_, key)) = line.split_once("acknowledged ") {
                acknowledged.push(key.to_owned());
                seen += 1;
                if seen == 40 * round {
                    child.kill().expect("kills");
                }
            }
        }
        child.wait().expect("reaped");
        assert!(seen >= 40 * round);
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        runtime.block_on(check(&path, &acknowledged));
    }
}

/// Writes one key after the other, several at a time, and says so only after the answer.
fn write_until_killed(path: &Path) -> ! {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let store = Store::open(path, Options::default()).await.expect("opens");
        let leader = store.campaign("child").await.expect("leads");
        let run = leader.fence();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let leader = leader.clone();
            writers.spawn(async move {
                for i in 0_u64.. {
                    let key = format!("k/{run}/{writer}/{i}");
                    let txn = put(&key, "both").then(Op::put(format!("{key}/twin"), "both"));
                    leader.commit(txn).await.expect("commits");
                    println!("\nacknowledged {key}");
                }
            });
        }
        writers.join_all().await;
    });
    unreachable!("the writers do not end")
}

async fn check(path: &Path, acknowledged: &[String]) {
    let store = Store::open(path, Options::default()).await.expect("opens");
    for key in acknowledged {
        let entry = store.get(key).await.expect("reads");
        let twin = store.get(&format!("{key}/twin")).await.expect("reads");
        let (entry, twin) = (entry.expect("kept"), twin.expect("kept whole"));
        assert_eq!(entry.mod_revision, twin.mod_revision);
    }
    store.close().await;
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Swap(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5_u8, any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        (0..5_u8).prop_map(Step::Delete),
        (0..5_u8, 0..5_u8).prop_map(|(a, b)| Step::Swap(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The state that a watch from the beginning tells is the state that is read, and both are what a
    /// plain map says.
    #[test]
    fn the_watch_tells_what_a_map_says(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let store = Store::in_memory(Options::default()).await.expect("opens");
            let leader = store.campaign("a").await.expect("leads");
            let mut watch = store.watch("k/", Revision(1)).expect("watches");
            let mut map = std::collections::BTreeMap::new();
            let key = |k: u8| format!("k/{k}");
            for step in steps {
                let mut txn = Txn::new();
                match step {
                    Step::Put(k, v) => {
                        map.insert(key(k), vec![v]);
                        txn = txn.then(Op::put(key(k), vec![v]));
                    }
                    Step::Delete(k) => {
                        map.remove(&key(k));
                        txn = txn.then(Op::delete(key(k)));
                    }
                    // Moves a value, if it is there and the place is free.
                    Step::Swap(a, b) => {
                        let value = map.get(&key(a)).cloned().unwrap_or_default();
                        txn = txn
                            .when(Compare::Exists(key(a)))
                            .when(Compare::Absent(key(b)))
                            .then(Op::put(key(b), value.clone()))
                            .then(Op::delete(key(a)));
                        if a == b {
                            txn.ops.pop();
                        } else if map.contains_key(&key(a)) && !map.contains_key(&key(b)) {
                            map.remove(&key(a));
                            map.insert(key(b), value);
                        }
                    }
                }
                leader.commit(txn).await.expect("answers");
            }
            leader.commit(put("k/end", "")).await.expect("commits");
            let mut told = std::collections::BTreeMap::new();
            let mut before = Revision(0);
            while !told.contains_key("k/end") {
                let changes = watch.next().await.expect("kept");
                assert!(changes.revision > before);
                before = changes.revision;
                for change in changes.changes {
                    match change {
                        crate::Change::Put(entry) => told.insert(entry.key, entry.value),
                        crate::Change::Delete { key } => told.remove(&key),
                    };
                }
            }
            told.remove("k/end");
            assert_eq!(told, map);
            let page = store.range(Range::prefix("k/")).await.expect("reads");
            let read: std::collections::BTreeMap<_, _> = page
                .entries
                .into_iter()
                .filter(|e| e.key != "k/end")
                .map(|e| (e.key, e.value))
                .collect();
            assert_eq!(read, map);
        });
    }
}
