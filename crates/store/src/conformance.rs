//! What every backend must do. Each check takes a factory of fresh stores, so that another backend
//! runs the same suite.

use std::sync::Arc;
use std::time::Duration;

use crate::{
    Change, Compare, Leader, LeaseId, ManualClock, Op, Outcome, Page, Range, Revision, Store,
    StoreError, Txn, Watch,
};

/// A fresh store, and the time of its leases.
pub(crate) struct Fresh {
    pub(crate) store: Store,
    pub(crate) time: Time,
}

/// How a backend's leases see time go by.
pub(crate) enum Time {
    /// By a clock that the test moves.
    Manual(Arc<ManualClock>),
    /// As it goes, and the backend looks for expired leases only now and then.
    Real,
}

impl Time {
    /// A short lease.
    fn ttl(&self) -> Duration {
        match self {
            Self::Manual(_) => Duration::from_secs(5),
            Self::Real => Duration::from_secs(2),
        }
    }

    async fn pass(&self, time: Duration) {
        match self {
            Self::Manual(clock) => clock.advance(time),
            Self::Real => tokio::time::sleep(time).await,
        }
    }

    /// Until a lease of which so much is left has expired, and the backend knows.
    async fn expire(&self, left: Duration) {
        self.pass(left).await;
        if matches!(self, Self::Real) {
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
    }
}

/// Runs every check, each on a store of its own.
pub(crate) async fn run<F: Future<Output = Fresh>>(fresh: impl Fn() -> F) {
    transactions_are_conditional(fresh().await.store).await;
    revisions_tell_the_story_of_a_key(fresh().await.store).await;
    transactions_are_all_or_nothing(fresh().await.store).await;
    requests_outside_the_limits_are_refused(fresh().await.store).await;
    ranges_go_page_by_page(fresh().await.store).await;
    watches_catch_up_and_then_follow(fresh().await.store).await;
    of_concurrent_writers_one_wins(fresh().await.store).await;
    a_later_leader_ends_the_earlier(fresh().await.store).await;
    keys_vanish_with_their_lease(fresh().await).await;
    a_key_put_anew_leaves_its_lease(fresh().await).await;
    a_closed_store_says_so(fresh().await.store).await;
}

/// Ends a leader's right as the backend does when the leader is silent; a backend whose leader is
/// simply taken over has nothing to do.
async fn depose(store: &Store, leader: &Leader) {
    if let Some(lease) = leader.lease() {
        store.revoke(lease).await.expect("revokes");
    }
}

fn put(key: &str, value: &str) -> Txn {
    Txn::new().then(Op::put(key, value))
}

fn committed(outcome: Outcome) -> Revision {
    match outcome {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("conflict"),
    }
}

fn keys(page: &Page) -> Vec<&str> {
    page.entries.iter().map(|e| e.key.as_str()).collect()
}

async fn transactions_are_conditional(store: Store) {
    let leader = store.campaign("a").await.expect("leads");
    let first = committed(leader.commit(put("k", "1")).await.expect("commits"));
    let entry = store.get("k").await.expect("reads");
    let elsewhere = Revision(first.0 + 100);
    for (compare, holds) in [
        (Compare::Exists("k".to_owned()), true),
        (Compare::Exists("x".to_owned()), false),
        (Compare::Absent("k".to_owned()), false),
        (Compare::Absent("x".to_owned()), true),
        (Compare::ModRevision("k".to_owned(), first), true),
        (Compare::ModRevision("k".to_owned(), elsewhere), false),
        (Compare::ModRevision("x".to_owned(), first), false),
        (Compare::CreateRevision("k".to_owned(), first), true),
        (Compare::CreateRevision("k".to_owned(), elsewhere), false),
        (Compare::unchanged("k", entry.as_ref()), true),
        (Compare::unchanged("x", None), true),
        (Compare::unchanged("k", None), false),
    ] {
        let txn = Txn::new().when(compare.clone()).then(Op::put("seen", "1"));
        let outcome = leader.commit(txn).await.expect("answers");
        assert_eq!(
            matches!(outcome, Outcome::Committed(_)),
            holds,
            "{compare:?}"
        );
    }
}

async fn revisions_tell_the_story_of_a_key(store: Store) {
    let leader = store.campaign("a").await.expect("leads");
    let made = committed(leader.commit(put("k", "1")).await.expect("commits"));
    let changed = committed(leader.commit(put("k", "2")).await.expect("commits"));
    assert_eq!(changed, made.next());
    let entry = store.get("k").await.expect("reads").expect("there");
    assert_eq!(entry.value, b"2");
    assert_eq!((entry.create_revision, entry.mod_revision), (made, changed));
    let deleted = Txn::new().then(Op::delete("k"));
    let deleted = committed(leader.commit(deleted).await.expect("commits"));
    assert_eq!(store.get("k").await.expect("reads"), None);
    // What changes nothing has a revision that no change has.
    let nothing = Txn::new().then(Op::delete("k"));
    let nothing = committed(leader.commit(nothing).await.expect("commits"));
    assert!(nothing >= deleted);
    let again = committed(leader.commit(put("k", "3")).await.expect("commits"));
    let entry = store.get("k").await.expect("reads").expect("there");
    assert_eq!((entry.create_revision, entry.mod_revision), (again, again));
    assert!(again > nothing);
}

async fn transactions_are_all_or_nothing(store: Store) {
    let leader = store.campaign("a").await.expect("leads");
    leader.commit(put("a", "1")).await.expect("commits");
    let txn = Txn::new()
        .when(Compare::Exists("a".to_owned()))
        .when(Compare::Exists("b".to_owned()))
        .then(Op::delete("a"))
        .then(Op::put("c", "1"));
    assert_eq!(
        leader.commit(txn).await.expect("answers"),
        Outcome::Conflict
    );
    let page = store.range(Range::prefix("")).await.expect("reads");
    assert_eq!(keys(&page), ["a", "leader"]);
    let orphan = Txn::new()
        .then(Op::put("d", "1"))
        .then(Op::put_leased("e", "1", LeaseId(99)));
    let error = leader.commit(orphan).await.expect_err("no such lease");
    assert!(matches!(error, StoreError::LeaseNotFound(99)), "{error}");
    assert_eq!(store.get("d").await.expect("reads"), None);
    // One transaction is one revision.
    let txn = Txn::new().then(Op::put("x", "1")).then(Op::put("y", "1"));
    let revision = committed(leader.commit(txn).await.expect("commits"));
    for key in ["x", "y"] {
        let entry = store.get(key).await.expect("reads").expect("there");
        assert_eq!(entry.mod_revision, revision);
    }
}

async fn requests_outside_the_limits_are_refused(store: Store) {
    let leader = store.campaign("a").await.expect("leads");
    let many = |n: usize| Txn {
        compares: Vec::new(),
        ops: (0..n).map(|i| Op::put(format!("k{i}"), "")).collect(),
    };
    let most = store.limits().ops;
    leader
        .commit(many(most))
        .await
        .expect("the limit is allowed");
    let twice = Txn::new().then(Op::put("k", "1")).then(Op::delete("k"));
    // Values of the largest size, a little more than is left beside the last.
    let large = |bytes: usize| Txn {
        compares: Vec::new(),
        ops: (0..=bytes / crate::MAX_VALUE)
            .map(|i| Op::put(format!("k{i}"), vec![0; crate::MAX_VALUE]))
            .collect(),
    };
    for txn in [
        put("", "1"),
        put("a b", "1"),
        put("a\u{7f}", "1"),
        put("\u{e9}", "1"),
        put(&"k".repeat(crate::MAX_KEY + 1), "1"),
        put("k", &"v".repeat(crate::MAX_VALUE + 1)),
        put("leader", "me"),
        Txn::new().when(Compare::Exists(String::new())),
        many(most + 1),
        large(store.limits().bytes),
        twice,
    ] {
        let error = leader.commit(txn).await.expect_err("refused");
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    }
    assert!(matches!(
        store.get("a b").await,
        Err(StoreError::Invalid(_))
    ));
    assert!(matches!(
        store.range(Range::prefix("\n")).await,
        Err(StoreError::Invalid(_))
    ));
    assert!(matches!(
        store.grant(Duration::ZERO).await,
        Err(StoreError::Invalid(_))
    ));
}

async fn ranges_go_page_by_page(store: Store) {
    let leader = store.campaign("a").await.expect("leads");
    let mut last = Revision(0);
    for key in ["p/1", "p/2", "p/3", "p/4", "p/5", "p", "o/9", "p0", "q"] {
        last = committed(leader.commit(put(key, key)).await.expect("commits"));
    }
    for reverse in [false, true] {
        let mut found = Vec::new();
        let mut range = Range::prefix("p/").limit(2);
        if reverse {
            range = range.reverse();
        }
        loop {
            let page = store.range(range.clone()).await.expect("reads");
            assert_eq!(page.revision, last);
            assert!(page.entries.len() <= 2);
            found.extend(page.entries.iter().map(|e| e.key.clone()));
            match page.entries.last() {
                Some(entry) if page.more => range = range.after(&entry.key),
                _ => break,
            }
        }
        if reverse {
            found.reverse();
        }
        assert_eq!(found, ["p/1", "p/2", "p/3", "p/4", "p/5"]);
    }
    let p = || Range::prefix("p/");
    for (range, expected) in [
        (p().after("p/3"), vec!["p/4", "p/5"]),
        (p().after("p/35"), vec!["p/4", "p/5"]),
        (p().after("a"), vec!["p/1", "p/2", "p/3", "p/4", "p/5"]),
        (p().after("z"), vec![]),
        (p().reverse().after("p/3"), vec!["p/2", "p/1"]),
        (p().reverse().after("a"), vec![]),
        (p().reverse().after("z").limit(1), vec!["p/5"]),
        (p().limit(0), vec![]),
        (Range::prefix("none"), vec![]),
    ] {
        let page = store.range(range.clone()).await.expect("reads");
        assert_eq!(keys(&page), expected, "{range:?}");
    }
}

async fn next(watch: &mut Watch) -> (Revision, Vec<Change>) {
    let changes = watch.next().await.expect("goes on");
    (changes.revision, changes.changes)
}

async fn watches_catch_up_and_then_follow(store: Store) {
    let leader = store.campaign("a").await.expect("leads");
    leader.commit(put("w/old", "0")).await.expect("commits");
    let page = store.range(Range::prefix("w/")).await.expect("reads");
    let first = committed(leader.commit(put("w/a", "1")).await.expect("commits"));
    leader.commit(put("other", "1")).await.expect("commits");
    let mut watch = store.watch("w/", page.revision.next()).expect("watches");
    let entry = store.get("w/a").await.expect("reads").expect("there");
    assert_eq!(next(&mut watch).await, (first, vec![Change::Put(entry)]));

    let txn = Txn::new()
        .then(Op::put("w/b", "2"))
        .then(Op::put("elsewhere", "2"))
        .then(Op::delete("w/a"));
    let writer = leader.clone();
    let (seen, wrote) = tokio::join!(next(&mut watch), writer.commit(txn));
    let both = committed(wrote.expect("commits"));
    let entry = store.get("w/b").await.expect("reads").expect("there");
    let deleted = Change::Delete {
        key: "w/a".to_owned(),
    };
    assert_eq!(
        seen,
        (both, vec![Change::Put(entry.clone()), deleted.clone()])
    );
    // From a revision in the middle, again and again, the same.
    for _ in 0..2 {
        let mut again = store.watch("w/", both).expect("watches");
        let expected = (both, vec![Change::Put(entry.clone()), deleted.clone()]);
        assert_eq!(next(&mut again).await, expected);
    }
    // From a revision yet to come: only from there on.
    let mut later = store.watch("w/", Revision(both.0 + 2)).expect("watches");
    leader.commit(put("w/c", "1")).await.expect("commits");
    let second = committed(leader.commit(put("w/c", "2")).await.expect("commits"));
    assert_eq!(next(&mut later).await.0, second);
}

async fn of_concurrent_writers_one_wins(store: Store) {
    let leader = store.campaign("a").await.expect("leads");
    let mut writers = tokio::task::JoinSet::new();
    for i in 0..32 {
        let leader = leader.clone();
        writers.spawn(async move {
            let txn = Txn::new()
                .when(Compare::Absent("k".to_owned()))
                .then(Op::put("k", i.to_string()));
            leader.commit(txn).await.expect("answers")
        });
    }
    let outcomes = writers.join_all().await;
    let won = outcomes
        .iter()
        .filter(|o| matches!(o, Outcome::Committed(_)));
    assert_eq!(won.count(), 1);
}

async fn a_later_leader_ends_the_earlier(store: Store) {
    let first = store.campaign("first").await.expect("leads");
    first.commit(put("k", "first")).await.expect("commits");
    first.check().await.expect("still leads");
    first.renew().await.expect("still leads");
    depose(&store, &first).await;
    let second = store.campaign("second").await.expect("leads");
    assert!(second.fence() > first.fence());
    for error in [
        first.commit(put("k", "late")).await.expect_err("replaced"),
        first
            .clone()
            .commit(Txn::new())
            .await
            .expect_err("replaced"),
        first.check().await.expect_err("replaced"),
    ] {
        match error {
            StoreError::NotLeader { holder } => assert_eq!(holder.as_deref(), Some("second")),
            other => panic!("{other}"),
        }
    }
    assert_eq!(
        store.get("k").await.expect("reads").expect("there").value,
        b"first"
    );
    second.commit(put("k", "second")).await.expect("commits");
    // The same name does not bring the right back.
    second.resign().await.expect("resigns");
    let third = store.campaign("first").await.expect("leads");
    assert!(first.commit(put("k", "late")).await.is_err());
    assert!(second.commit(put("k", "late")).await.is_err());
    third.commit(put("k", "third")).await.expect("commits");
}

async fn keys_vanish_with_their_lease(fresh: Fresh) {
    let Fresh { store, time } = fresh;
    let ttl = time.ttl();
    let leader = store.campaign("a").await.expect("leads");
    let short = store.grant(ttl).await.expect("grants");
    let long = store.grant(ttl * 12).await.expect("grants");
    let txn = Txn::new()
        .then(Op::put_leased("l/1", "1", short))
        .then(Op::put_leased("l/2", "2", short))
        .then(Op::put_leased("l/3", "3", long))
        .then(Op::put("l/4", "4"));
    let put = committed(leader.commit(txn).await.expect("commits"));
    let mut watch = store.watch("l/", put.next()).expect("watches");
    time.pass(ttl * 3 / 4).await;
    store.keep_alive(short).await.expect("in time");
    time.pass(ttl * 3 / 4).await;
    assert!(store.get("l/1").await.expect("reads").is_some());
    time.expire(ttl / 4).await;
    let error = store.keep_alive(short).await.expect_err("too late");
    assert!(matches!(error, StoreError::LeaseNotFound(_)), "{error}");
    let deleted = |key: &str| Change::Delete {
        key: key.to_owned(),
    };
    assert_eq!(next(&mut watch).await.1, [deleted("l/1"), deleted("l/2")]);
    let page = store.range(Range::prefix("l/")).await.expect("reads");
    assert_eq!(keys(&page), ["l/3", "l/4"]);
    store.revoke(long).await.expect("revokes");
    assert_eq!(next(&mut watch).await.1, [deleted("l/3")]);
    assert!(store.revoke(long).await.is_err());
    assert!(store.keep_alive(long).await.is_err());
    let late = Txn::new().then(Op::put_leased("l/5", "5", long));
    assert!(matches!(
        leader.commit(late).await,
        Err(StoreError::LeaseNotFound(_))
    ));
}

async fn a_key_put_anew_leaves_its_lease(fresh: Fresh) {
    let store = fresh.store;
    let leader = store.campaign("a").await.expect("leads");
    let one = store.grant(Duration::from_secs(60)).await.expect("grants");
    let two = store.grant(Duration::from_secs(60)).await.expect("grants");
    for (key, lease) in [("free", one), ("moved", one), ("gone", one)] {
        let txn = Txn::new().then(Op::put_leased(key, "1", lease));
        leader.commit(txn).await.expect("commits");
    }
    let txn = Txn::new()
        .then(Op::put("free", "2"))
        .then(Op::put_leased("moved", "2", two))
        .then(Op::delete("gone"));
    leader.commit(txn).await.expect("commits");
    leader.commit(put("gone", "2")).await.expect("commits");
    store.revoke(one).await.expect("revokes");
    let page = store.range(Range::prefix("")).await.expect("reads");
    assert_eq!(keys(&page), ["free", "gone", "leader", "moved"]);
    store.revoke(two).await.expect("revokes");
    assert_eq!(store.get("moved").await.expect("reads"), None);
}

async fn a_closed_store_says_so(store: Store) {
    let leader = store.campaign("a").await.expect("leads");
    let lease = store.grant(Duration::from_secs(5)).await.expect("grants");
    let mut watch = store.watch("", leader.fence().next()).expect("watches");
    let (waited, ()) = tokio::join!(watch.next(), store.close());
    assert!(matches!(waited, Err(StoreError::Closed)));
    assert!(matches!(store.get("k").await, Err(StoreError::Closed)));
    assert!(matches!(
        leader.commit(put("k", "1")).await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(store.revoke(lease).await, Err(StoreError::Closed)));
    store.close().await;
}
