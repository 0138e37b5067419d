use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use espalier_tests::Etcd as Server;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::conformance::{self, Fresh, Time};
use crate::{Change, Compare, Leader, Op, Store};

fn options(server: &Server) -> EtcdOptions {
    EtcdOptions {
        endpoints: server.endpoints(),
        ..EtcdOptions::default()
    }
}

async fn connect(options: EtcdOptions) -> Store {
    Store::connect_etcd(options).await.expect("connects")
}

fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Txn {
    Txn::new().then(Op::put(key, value))
}

async fn conforms(server: &Server) {
    let count = AtomicU32::new(0);
    conformance::run(|| async {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let options = EtcdOptions {
            prefix: format!("/espalier/{n}/"),
            leader_ttl: Duration::from_secs(60),
            ..options(server)
        };
        Fresh {
            store: connect(options).await,
            time: Time::Real,
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_one_member_conforms() {
    let Some(server) = Server::start(1, &[]) else {
        return;
    };
    conforms(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_three_members_conforms() {
    let Some(server) = Server::start(3, &[]) else {
        return;
    };
    conforms(&server).await;
}

#[tokio::test]
async fn a_silent_leader_is_replaced_and_can_write_no_more() {
    let Some(server) = Server::start(1, &[]) else {
        return;
    };
    let (one, two) = (
        connect(options(&server)).await,
        connect(options(&server)).await,
    );
    let first = one.campaign("one").await.expect("leads");
    assert_eq!(two.leader().await.expect("reads").as_deref(), Some("one"));
    let every = first.renew_every().expect("has a lease");
    let started = Instant::now();
    let renewed = async {
        while started.elapsed() < Duration::from_secs(4) {
            first.renew().await.expect("leads");
            tokio::time::sleep(every).await;
        }
        Instant::now()
    };
    let ((silent, second), won) = tokio::join!(async { (renewed.await, ()) }, async {
        let leader = two.campaign("two").await.expect("leads");
        (leader, Instant::now())
    });
    let ((), (second, at)) = (second, won);
    let gap = at.saturating_duration_since(silent);
    println!("silent for {gap:?} before another led");
    assert!(at > silent, "replaced while it renewed");
    for error in [
        first.renew().await.expect_err("replaced"),
        first.commit(put("k", "late")).await.expect_err("replaced"),
    ] {
        let holder = Some("two".to_owned());
        assert!(
            matches!(&error, StoreError::NotLeader { holder: h } if *h == holder),
            "{error}"
        );
    }
    second.commit(put("k", "two")).await.expect("commits");
    // One that resigns is replaced at once.
    let resigned = Instant::now();
    let (third, done) = tokio::join!(one.campaign("one"), second.resign());
    done.expect("resigns");
    third.expect("leads");
    assert!(resigned.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_dead_member_fails_no_call() {
    let Some(mut server) = Server::start(3, &[]) else {
        return;
    };
    let follower = (server.leading() + 1) % 3;
    let mut options = options(&server);
    options.endpoints.rotate_left(follower);
    server.kill(follower);
    let store = connect(options).await;
    let leader = store.campaign("a").await.expect("leads");
    for i in 0..200 {
        let key = format!("k/{i}");
        leader.commit(put(&key, "1")).await.expect("commits");
        store.get(&key).await.expect("reads").expect("is there");
    }
}

/// Writes keys of its own, one after the other, until told to stop.
async fn write(leader: Leader, writer: u32, stop: &AtomicU32) -> Vec<(String, Revision)> {
    let mut made = Vec::new();
    while stop.load(Ordering::Relaxed) == 0 {
        let key = format!("k/{writer}/{}", made.len());
        let txn = put(&key, "1").when(Compare::Absent(key.clone()));
        match leader.commit(txn).await.expect("answers") {
            Outcome::Committed(revision) => made.push((key, revision)),
            Outcome::Conflict => panic!("{key} was made by an attempt that was not told of"),
        }
    }
    made
}

/// Each was made once, as the revision that was told.
async fn check(store: &Store, made: &[(String, Revision)]) {
    for (key, revision) in made {
        let entry = store.get(key).await.expect("reads").expect("is there");
        assert_eq!(entry.create_revision, *revision, "{key}");
        assert_eq!(entry.mod_revision, *revision, "{key} was made again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_on_when_etcds_own_leader_is_killed_or_hangs() {
    for hang in [false, true] {
        let Some(mut server) = Server::start(3, &[]) else {
            return;
        };
        let victim = server.leading();
        let mut options = options(&server);
        options.endpoints.rotate_left(victim);
        let store = connect(options).await;
        let leader = store.campaign("a").await.expect("leads");
        let mut watch = store.watch("k/", leader.fence().next()).expect("watches");
        let stop = std::sync::Arc::new(AtomicU32::new(0));
        let mut writers = JoinSet::new();
        for writer in 0..4 {
            let (leader, stop) = (leader.clone(), stop.clone());
            writers.spawn(async move { write(leader, writer, &stop).await });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        if hang {
            server.hang(victim);
        } else {
            server.kill(victim);
        }
        let until = Instant::now() + Duration::from_secs(6);
        while Instant::now() < until {
            leader.renew().await.expect("leads still");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        stop.store(1, Ordering::Relaxed);
        let made: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
        println!("{} commits, hang: {hang}", made.len());
        check(&store, &made).await;
        let mut seen = Vec::new();
        while seen.len() < made.len() {
            let changes = tokio::time::timeout(Duration::from_secs(10), watch.next());
            let changes = changes.await.expect("in time").expect("goes on");
            for change in changes.changes {
                assert!(matches!(change, Change::Put(_)));
                seen.push((change.key().to_owned(), changes.revision));
            }
        }
        let mut made = made;
        made.sort_by_key(|(_, revision)| *revision);
        assert_eq!(seen, made, "the watch tells each commit, in order");
    }
}

/// Lets connections through to etcd, and cuts each after a while, in the middle of whatever is said.
async fn cutting_proxy(to: String, cuts: std::sync::Arc<AtomicU64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        loop {
            let Ok((mut inbound, _)) = listener.accept().await else {
                return;
            };
            let (to, cuts) = (to.clone(), cuts.clone());
            tokio::spawn(async move {
                let Ok(mut outbound) = TcpStream::connect(to).await else {
                    return;
                };
                let life = Duration::from_millis(20 + cuts.fetch_add(1, Ordering::Relaxed) % 7 * 9);
                let copied = async {
                    let (mut read, mut write) = inbound.split();
                    let (mut from, mut into) = outbound.split();
                    tokio::select! {
                        _ = tokio::io::copy(&mut read, &mut into) => {}
                        _ = tokio::io::copy(&mut from, &mut write) => {}
                    }
                };
                let _ = tokio::time::timeout(life, copied).await;
                let _ = inbound.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_made_once_and_found() {
    let Some(server) = Server::start(1, &[]) else {
        return;
    };
    let cuts = std::sync::Arc::new(AtomicU64::new(0));
    let direct = server.endpoints()[0].replace("http://", "");
    let proxy = cutting_proxy(direct, cuts.clone()).await;
    let patient = EtcdOptions {
        endpoints: vec![format!("http://{proxy}")],
        deadline: Duration::from_secs(20),
        leader_ttl: Duration::from_secs(60),
        ..options(&server)
    };
    let store = connect(patient).await;
    let leader = store.campaign("a").await.expect("leads");
    let stop = std::sync::Arc::new(AtomicU32::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let (leader, stop) = (leader.clone(), stop.clone());
        writers.spawn(async move { write(leader, writer, &stop).await });
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(1, Ordering::Relaxed);
    let made: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    println!(
        "{} commits over {} connections",
        made.len(),
        cuts.load(Ordering::Relaxed)
    );
    assert!(cuts.load(Ordering::Relaxed) > 10 && made.len() > 50);
    check(&connect(options(&server)).await, &made).await;
}

#[tokio::test]
async fn a_watch_goes_on_over_a_restart_of_etcd_and_tells_when_history_is_gone() {
    let Some(mut server) = Server::start(1, &[]) else {
        return;
    };
    let etcd = Etcd::connect(EtcdOptions {
        leader_ttl: Duration::from_secs(60),
        ..options(&server)
    })
    .await
    .expect("connects");
    let term = etcd.win("a").await.expect("leads");
    let write = async |key: &str| match etcd.settle(&term, put(key, "1")).await.expect("commits") {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("conflict"),
    };
    let first = write("k/1").await;
    let mut watch = etcd.watch("k/".to_owned(), first);
    assert_eq!(watch.next().await.expect("goes on").revision, first);
    server.kill(0);
    let (seen, second) = tokio::join!(watch.next(), async {
        server.restart(0);
        write("k/2").await
    });
    assert_eq!(seen.expect("goes on").revision, second);

    for i in 3..20 {
        write(&format!("k/{i}")).await;
    }
    let last = write("k/20").await;
    etcd.compact(5).await.expect("compacts");
    let Err(StoreError::Compacted { oldest }) = etcd.watch("k/".to_owned(), first).next().await
    else {
        panic!("not told");
    };
    assert_eq!(oldest, Revision(last.0 - 4));
    let mut kept = etcd.watch("k/".to_owned(), oldest);
    for revision in oldest.0..=last.0 {
        assert_eq!(kept.next().await.expect("kept").revision.0, revision);
    }
    // The values are all there, in pages of one revision each.
    let page = etcd.range(Range::prefix("k/")).await.expect("reads");
    assert_eq!((page.entries.len(), page.revision), (20, last));
    // Whoever has seen the latest may lag behind the compaction, and has missed nothing.
    let mut latest = etcd.watch("k/".to_owned(), last.next());
    let (seen, next) = tokio::join!(latest.next(), write("k/21"));
    assert_eq!(seen.expect("kept").revision, next);
}

#[tokio::test]
async fn long_ranges_come_in_short_pages() {
    let Some(server) = Server::start(1, &[]) else {
        return;
    };
    let store = connect(options(&server)).await;
    let leader = store.campaign("a").await.expect("leads");
    for chunk in 0..3 {
        let ops = (0..100).map(|i| Op::put(format!("k/{}", chunk * 100 + i + 1000), "1"));
        let txn = Txn {
            compares: Vec::new(),
            ops: ops.collect(),
        };
        leader.commit(txn).await.expect("commits");
    }
    for reverse in [false, true] {
        let mut range = Range::prefix("k/");
        if reverse {
            range = range.reverse();
        }
        let mut found: Vec<String> = Vec::new();
        loop {
            let page = store.range(range.clone()).await.expect("reads");
            found.extend(page.entries.into_iter().map(|e| e.key));
            if !page.more {
                break;
            }
            range = range.after(found.last().expect("not empty"));
        }
        if reverse {
            found.reverse();
        }
        let all: Vec<String> = (1000..1300).map(|i| format!("k/{i}")).collect();
        assert_eq!(found, all);
    }
}

/// Etcd cuts what a watch has to catch up with into answers of about 2 MiB, in the middle of
/// transactions too.
#[tokio::test]
async fn a_watch_tells_a_transaction_whole_however_etcd_cuts_it() {
    let Some(server) = Server::start(1, &[]) else {
        return;
    };
    let store = connect(options(&server)).await;
    let leader = store.campaign("a").await.expect("leads");
    let value = vec![b'v'; 400 << 10];
    let mut made = Vec::new();
    for i in 0..6 {
        let ops = (0..3).map(|part| Op::put(format!("k/{i}/{part}"), value.clone()));
        let txn = Txn {
            compares: Vec::new(),
            ops: ops.collect(),
        };
        match leader.commit(txn).await.expect("commits") {
            Outcome::Committed(revision) => made.push(revision),
            Outcome::Conflict => panic!("conflict"),
        }
    }
    let mut watch = store.watch("k/", leader.fence().next()).expect("watches");
    for (i, revision) in made.into_iter().enumerate() {
        let changes = watch.next().await.expect("goes on");
        let keys: Vec<&str> = changes.changes.iter().map(Change::key).collect();
        let parts = [0, 1, 2].map(|part| format!("k/{i}/{part}"));
        assert_eq!(
            (changes.revision, keys),
            (revision, parts.each_ref().map(|k| k.as_str()).to_vec())
        );
    }
}

#[tokio::test]
async fn name_and_password_are_asked_for_and_a_token_that_ends_is_renewed() {
    let Some(server) = Server::start(1, &["--auth-token-ttl", "1"]) else {
        return;
    };
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        server.ctl(args);
    }
    let with = |password: &str| EtcdOptions {
        user: Some(EtcdUser {
            name: "root".to_owned(),
            password: password.to_owned(),
        }),
        leader_ttl: Duration::from_secs(60),
        ..options(&server)
    };
    for refused in [options(&server), with("wrong")] {
        let error = Store::connect_etcd(refused).await.expect_err("refused");
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    }
    let store = connect(with("secret")).await;
    let leader = store.campaign("a").await.expect("leads");
    let mut watch = store.watch("k", leader.fence().next()).expect("watches");
    for i in 0..2 {
        leader
            .commit(put(format!("k{i}"), "1"))
            .await
            .expect("commits");
        watch.next().await.expect("goes on");
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    // A watch finds out by itself.
    let mut watch = store.watch("k0", leader.fence()).expect("watches");
    let seen = tokio::time::timeout(Duration::from_secs(5), watch.next());
    seen.await.expect("in time").expect("goes on");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    store.get("k0").await.expect("reads").expect("is there");
}

/// An authority, and a certificate of 127.0.0.1 that it signed with its key, as PEM text.
fn certificates() -> [String; 3] {
    let key = rcgen::KeyPair::generate().expect("makes a key");
    let mut authority = rcgen::CertificateParams::new([]).expect("sound");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let own = authority.self_signed(&key).expect("signs").pem();
    let issuer = rcgen::Issuer::new(authority, key);
    let key = rcgen::KeyPair::generate().expect("makes a key");
    let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("sound");
    let signed = leaf.signed_by(&key, &issuer).expect("signs").pem();
    [own, signed, key.serialize_pem()]
}

#[tokio::test]
async fn connections_are_encrypted_and_both_sides_show_certificates() {
    let [authority, certificate, key] = certificates();
    let dir = tempfile::tempdir().expect("tempdir");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path.display().to_string()
    };
    let args = [
        "--cert-file",
        &file("certificate.pem", &certificate),
        "--key-file",
        &file("key.pem", &key),
        "--trusted-ca-file",
        &file("authority.pem", &authority),
        "--client-cert-auth",
    ];
    let Some(server) = Server::start(1, &args) else {
        return;
    };
    let with = |ca: &str, identity: bool| EtcdOptions {
        tls: Some(EtcdTls {
            ca: ca.as_bytes().to_vec(),
            identity: identity.then(|| (certificate.clone().into(), key.clone().into())),
        }),
        ..options(&server)
    };
    let store = connect(with(&authority, true)).await;
    let leader = store.campaign("a").await.expect("leads");
    leader.commit(put("k", "1")).await.expect("commits");
    let [other, ..] = certificates();
    for refused in [with(&authority, false), with(&other, true)] {
        let refused = EtcdOptions {
            deadline: Duration::from_millis(500),
            ..refused
        };
        let error = Store::connect_etcd(refused).await.expect_err("refused");
        assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
        println!("{error}");
    }
}

#[tokio::test]
async fn wrong_options_and_an_etcd_that_is_not_there_are_told() {
    let none = EtcdOptions {
        endpoints: vec!["http://127.0.0.1:1".to_owned()],
        deadline: Duration::from_millis(300),
        ..EtcdOptions::default()
    };
    let error = Store::connect_etcd(none.clone()).await.expect_err("nobody");
    assert!(matches!(error, StoreError::Unreachable(_)), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    for wrong in [
        EtcdOptions {
            endpoints: Vec::new(),
            ..none.clone()
        },
        EtcdOptions {
            endpoints: vec!["https://127.0.0.1:1".to_owned()],
            ..none.clone()
        },
        EtcdOptions {
            prefix: "/no-slash".to_owned(),
            ..none.clone()
        },
        EtcdOptions {
            leader_ttl: Duration::from_millis(10),
            ..none.clone()
        },
    ] {
        let error = Store::connect_etcd(wrong).await.expect_err("refused");
        assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    }
}
