//! A model of the registry under pushes, pulls, deletes, collections, time and crashes in any order:
//! nothing that is referred to is ever lost, nothing else stays for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use espalier_proto::v1 as pb;
use espalier_store::{Range, Store};
use proptest::prelude::*;

use super::cycle::Cycle;
use crate::objects::memory::Memory;
use crate::records::{MANIFESTS, PUBLISHES, TOMBSTONES};
use crate::service::{Options, RegistryService};
use crate::{
    Blobs, ChunkId, Clock, Digest, FileEntry, Kind, Lineage, Manifest, NoJobs, RegistryError,
};

const TTL: i64 = 50;
const GRACE: i64 = 100;
const PUSHERS: usize = 3;
const PULLERS: usize = 2;
const CONTENTS: u8 = 8;

/// Milliseconds, moved by hand.
#[derive(Clone, Default)]
struct Hand(Arc<AtomicI64>);

impl Clock for Hand {
    fn wall_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.wall_ms().cast_unsigned())
    }
}

#[derive(Clone, Debug)]
enum Act {
    /// Begins a push of these contents, or does the next step of it.
    Push(usize, BTreeSet<u8>, bool),
    /// Forgets a push.
    Abandon(usize),
    /// Begins a pull, or reads the next chunk of it.
    Pull(usize, usize),
    Delete(usize),
    MoveAlias(usize),
    Collect,
    Wait(i64),
    Crash,
}

fn act() -> impl Strategy<Value = Act> {
    let contents = prop::collection::btree_set(0..CONTENTS, 1..4);
    prop_oneof![
        8 => (0..PUSHERS, contents, any::<bool>()).prop_map(|(p, c, a)| Act::Push(p, c, a)),
        1 => (0..PUSHERS).prop_map(Act::Abandon),
        3 => (0..PULLERS, 0..8_usize).prop_map(|(p, k)| Act::Pull(p, k)),
        2 => (0..8_usize).prop_map(Act::Delete),
        1 => (0..8_usize).prop_map(Act::MoveAlias),
        12 => Just(Act::Collect),
        4 => (1..80_i64).prop_map(Act::Wait),
        1 => Just(Act::Crash),
    ]
}

/// A chunk that someone relies on, and since when.
#[derive(Clone, Copy)]
struct Held {
    /// Number of the process that pinned it.
    process: u32,
}

#[derive(Default)]
struct Pusher {
    contents: Vec<u8>,
    alias: bool,
    lease: String,
    renewed: i64,
    held: BTreeMap<u8, Held>,
    /// Missing and not written yet; none before it was asked.
    missing: Option<Vec<u8>>,
}

#[derive(Default)]
struct Puller {
    digest: Option<Digest>,
    lease: String,
    renewed: i64,
    process: u32,
    left: Vec<u8>,
    all: Vec<u8>,
}

struct World {
    memory: Memory,
    store: Store,
    clock: Hand,
    service: RegistryService,
    cycle: Option<Cycle>,
    process: u32,
    started: i64,
    live: BTreeMap<Digest, Vec<u8>>,
    alias: Option<Digest>,
    pushers: [Pusher; PUSHERS],
    pullers: [Puller; PULLERS],
    serial: u32,
}

fn content(number: u8) -> Vec<u8> {
    vec![number; 10]
}

fn id(number: u8) -> ChunkId {
    ChunkId::of(&content(number))
}

async fn open(memory: &Memory, store: &Store, clock: &Hand) -> RegistryService {
    let blobs = Blobs::over(Box::new(memory.clone()), None)
        .await
        .expect("opens");
    let leader = store.campaign("model").await.expect("leads");
    let options = Options {
        lease_ttl: Duration::from_millis(TTL as u64),
        grace: Duration::from_millis(GRACE as u64),
        ..Options::default()
    };
    RegistryService::with(
        blobs,
        leader,
        Arc::new(NoJobs),
        options,
        Arc::new(clock.clone()),
    )
}

impl World {
    async fn new() -> Self {
        let (memory, clock) = (Memory::default(), Hand::default());
        let store = Store::in_memory(espalier_store::Options::default())
            .await
            .expect("opens");
        Self {
            service: open(&memory, &store, &clock).await,
            memory,
            store,
            clock,
            cycle: None,
            process: 0,
            started: 0,
            live: BTreeMap::new(),
            alias: None,
            pushers: Default::default(),
            pullers: Default::default(),
            serial: 0,
        }
    }

    fn now(&self) -> i64 {
        self.clock.wall_ms()
    }

    fn serial(&mut self) -> String {
        self.serial += 1;
        format!("s{}", self.serial)
    }

    fn pick(&self, number: usize) -> Option<Digest> {
        let digests: Vec<&Digest> = self.live.keys().collect();
        digests.get(number % digests.len().max(1)).map(|d| **d)
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Push(p, contents, alias) => self.push(p, contents, alias).await,
            Act::Abandon(p) => self.pushers[p] = Pusher::default(),
            Act::Pull(p, k) => self.pull(p, k).await,
            Act::Delete(k) => self.delete(k).await,
            Act::MoveAlias(k) => self.move_alias(k).await,
            Act::Collect => self.collect().await,
            Act::Wait(by) => {
                self.clock.0.fetch_add(by, Ordering::Relaxed);
            }
            Act::Crash => {
                // What lapsed before may be gone: nothing after the restart brings it back.
                (0..PUSHERS).for_each(|p| self.forget_lapsed(p));
                self.cycle = None;
                self.process += 1;
                self.started = self.now();
                self.service = open(&self.memory, &self.store, &self.clock).await;
            }
        }
    }

    async fn push(&mut self, p: usize, contents: BTreeSet<u8>, alias: bool) {
        if self.pushers[p].contents.is_empty() {
            self.pushers[p] = Pusher {
                contents: contents.into_iter().collect(),
                alias,
                lease: self.serial(),
                ..Pusher::default()
            };
            return;
        }
        // A lease that has ended and is named again pins only what is named with it.
        self.forget_lapsed(p);
        let (now, process) = (self.now(), self.process);
        let pusher = &mut self.pushers[p];
        match &mut pusher.missing {
            None => {
                let request = pb::FindMissingChunksRequest {
                    chunks: pusher.contents.iter().map(|&c| id(c).to_proto()).collect(),
                    lease: pusher.lease.clone(),
                };
                let missing = self.service.find_missing(&request).await.expect("answers");
                let is_missing = |c: &u8| missing.contains(&id(*c));
                let (absent, here): (Vec<u8>, Vec<u8>) =
                    pusher.contents.iter().partition(|c| is_missing(c));
                pusher.renewed = now;
                pusher.held = here.into_iter().map(|c| (c, Held { process })).collect();
                pusher.missing = Some(absent);
            }
            Some(missing) if !missing.is_empty() => {
                let number = missing.remove(0);
                let request = pb::WriteChunksRequest {
                    chunks: vec![pb::Chunk {
                        id: Some(id(number).to_proto()),
                        data: content(number).into(),
                        ..Default::default()
                    }],
                    lease: pusher.lease.clone(),
                };
                self.service.write(request).await.expect("writes");
                pusher.renewed = now;
                pusher.held.insert(number, Held { process });
            }
            Some(_) => self.publish(p).await,
        }
    }

    async fn publish(&mut self, p: usize) {
        let request_id = self.serial();
        let pusher = &self.pushers[p];
        let file = |number: &u8| FileEntry {
            path: number.to_string(),
            size: 10,
            media_type: String::new(),
            chunks: vec![id(*number)],
        };
        let files = pusher.contents.iter().map(file).collect();
        let manifest = Manifest::new(Kind::Model, "x", files, Lineage::default(), None);
        let manifest = manifest.expect("valid").to_bytes().expect("json");
        let request = pb::PublishCheckpointRequest {
            request_id,
            name: "x".to_owned(),
            manifest: manifest.clone().into(),
            alias: if pusher.alias { "a" } else { "" }.to_owned(),
            ..Default::default()
        };
        let safe = pusher.contents.iter().all(|c| self.is_held(pusher, *c));
        match self.service.publish(request).await {
            Ok(_) => {
                let digest = Digest::of(&manifest);
                if pusher.alias {
                    self.alias = Some(digest);
                }
                let contents = pusher.contents.clone();
                self.live.insert(digest, contents);
                self.pushers[p] = Pusher::default();
            }
            Err(RegistryError::MissingChunks(_)) => {
                assert!(!safe, "a pinned chunk went missing");
                self.pushers[p].missing = None;
                self.pushers[p].held.clear();
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn forget_lapsed(&mut self, p: usize) {
        let mut held = std::mem::take(&mut self.pushers[p].held);
        let pusher = &self.pushers[p];
        held.retain(|_, held| self.lasts(pusher, *held));
        self.pushers[p].held = held;
    }

    fn is_held(&self, pusher: &Pusher, number: u8) -> bool {
        let held = pusher.held.get(&number);
        held.is_some_and(|held| self.lasts(pusher, *held))
    }

    fn lasts(&self, pusher: &Pusher, held: Held) -> bool {
        let now = self.now();
        (held.process == self.process && now < pusher.renewed + TTL) || now < self.started + TTL
    }

    async fn pull(&mut self, p: usize, k: usize) {
        let (now, process) = (self.now(), self.process);
        if self.pullers[p].digest.is_none() {
            let Some(digest) = self.pick(k) else { return };
            let lease = self.serial();
            let request = pb::GetCheckpointRequest {
                reference: digest.to_string(),
                lease: lease.clone(),
            };
            self.service.get(&request).await.expect("is live");
            self.pullers[p] = Puller {
                digest: Some(digest),
                lease,
                renewed: now,
                process,
                left: self.live[&digest].clone(),
                all: self.live[&digest].clone(),
            };
            return;
        }
        let puller = &mut self.pullers[p];
        if now >= puller.renewed + TTL {
            // Its lease has ended: a new one of the same name pins nothing.
            puller.process = u32::MAX;
        }
        let covered = (puller.process == process && now < puller.renewed + TTL)
            || self.live.contains_key(&puller.digest.expect("pulls"));
        let Some(number) = puller.left.pop() else {
            self.service.pins().release(&puller.lease);
            *puller = Puller::default();
            return;
        };
        let request = pb::ReadChunksRequest {
            chunks: vec![id(number).to_proto()],
            lease: puller.lease.clone(),
            verify: true,
        };
        match self.service.read(&request).await {
            Ok(_) if puller.process == process => puller.renewed = now,
            Ok(_) => {}
            Err(error) => {
                assert!(!covered, "{error}");
                *puller = Puller::default();
            }
        }
    }

    async fn delete(&mut self, k: usize) {
        let Some(digest) = self.pick(k) else { return };
        match self.service.delete(&digest.to_string()).await {
            Ok(()) => {
                assert_ne!(self.alias, Some(digest));
                self.live.remove(&digest);
            }
            Err(RegistryError::Kept { .. }) => assert_eq!(self.alias, Some(digest)),
            Err(error) => panic!("{error}"),
        }
    }

    async fn move_alias(&mut self, k: usize) {
        let target = match self.pick(k) {
            Some(digest) if k > 1 => pb::update_alias_request::Target::Digest(digest.to_string()),
            _ => pb::update_alias_request::Target::Remove(true),
        };
        let request = pb::UpdateAliasRequest {
            name: "x".to_owned(),
            alias: "a".to_owned(),
            target: Some(target),
            ..Default::default()
        };
        let answer = self.service.change_alias(request).await.expect("changes");
        self.alias = answer.digest.parse().ok();
    }

    async fn collect(&mut self) {
        let mut cycle = self
            .cycle
            .take()
            .unwrap_or_else(|| Cycle::new(&self.service, false));
        cycle.step().await.expect("steps");
        self.cycle = Some(cycle).filter(|cycle| !cycle.is_done());
    }

    /// What must hold at any time.
    async fn check(&self) {
        let stored = |number: u8| self.memory.objects().contains_key(&id(number).digest);
        for (digest, contents) in &self.live {
            for &number in contents {
                assert!(stored(number), "{number} of {digest} is lost");
            }
        }
        for pusher in &self.pushers {
            for &number in pusher.held.keys() {
                let held = self.is_held(pusher, number);
                assert!(!held || stored(number), "{number} of a push is lost");
            }
        }
        for puller in &self.pullers {
            if puller.process == self.process && self.now() < puller.renewed + TTL {
                assert!(
                    puller.all.iter().all(|&n| stored(n)),
                    "a chunk of a pull is lost"
                );
            }
        }
        let manifests = self
            .store
            .range(Range::prefix(MANIFESTS))
            .await
            .expect("reads");
        let found: BTreeSet<String> = manifests
            .entries
            .iter()
            .map(|e| e.key[MANIFESTS.len()..].to_owned())
            .collect();
        assert_eq!(found, self.live.keys().map(Digest::to_string).collect());
        if let Some(alias) = &self.alias {
            assert!(self.live.contains_key(alias), "the alias points to nothing");
        }
    }

    /// When all is quiet, exactly what is referred to is left.
    async fn settle(&mut self) {
        self.pushers = Default::default();
        self.pullers = Default::default();
        self.clock.0.fetch_add(TTL + GRACE, Ordering::Relaxed);
        for _ in 0..3 {
            self.collect().await;
            while self.cycle.is_some() {
                self.collect().await;
            }
            self.clock.0.fetch_add(GRACE, Ordering::Relaxed);
        }
        let left: BTreeSet<Digest> = self.memory.objects().keys().copied().collect();
        let needed = self
            .live
            .values()
            .flatten()
            .map(|&n| id(n).digest)
            .collect();
        assert_eq!(left, needed);
        let tombstones = self
            .store
            .range(Range::prefix(TOMBSTONES))
            .await
            .expect("reads");
        assert!(tombstones.entries.is_empty());
        let (chunks, stored, _) = self.service.0.blobs.usage();
        assert_eq!(
            (chunks, stored),
            (left.len() as u64, 10 * left.len() as u64)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_needed_is_lost_and_nothing_else_stays(
        acts in prop::collection::vec(act(), 1..250),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runs").block_on(async {
            let mut world = World::new().await;
            for act in acts {
                world.act(act).await;
                world.check().await;
            }
            world.settle().await;
            world.store.close().await;
        });
    }
}

#[tokio::test]
async fn a_publish_is_answered_again_for_a_week() {
    let mut world = World::new().await;
    for _ in 0..4 {
        world.push(0, [1].into(), false).await;
    }
    assert_eq!(world.live.len(), 1);
    for (wait, answers) in [(7 * 24 * 3_600_000, 1), (1, 0)] {
        world.clock.0.fetch_add(wait, Ordering::Relaxed);
        world.service.collect(false).await.expect("runs");
        let page = world
            .store
            .range(Range::prefix(PUBLISHES))
            .await
            .expect("reads");
        assert_eq!(page.entries.len(), answers);
    }
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_and_removes_nothing() {
    let mut world = World::new().await;
    for contents in [[1, 2], [2, 3]] {
        for _ in 0..6 {
            world.push(0, contents.into(), false).await;
        }
        world.pushers[0] = Pusher::default();
    }
    assert_eq!(world.live.len(), 2);
    let policy = pb::SetRetentionRequest {
        name: String::new(),
        retention: Some(pb::Retention {
            models: 1,
            ..Default::default()
        }),
    };
    world.service.set_retention(policy).await.expect("sets");
    world.clock.0.fetch_add(TTL, Ordering::Relaxed);
    let report = world.service.collect(true).await.expect("runs");
    assert_eq!(
        (
            report.retired_count,
            report.swept_chunks,
            report.swept_bytes
        ),
        (1, 1, 10)
    );
    assert_eq!(report.retired[0].reason, "not among the 1 newest models");
    world.check().await;

    let oldest = report.retired[0].digest.parse().expect("digest");
    let report = world.service.collect(false).await.expect("runs");
    assert_eq!((report.retired_count, report.waiting_chunks), (1, 1));
    world.live.remove(&oldest);
    world.settle().await;
}
