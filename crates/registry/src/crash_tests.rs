//! A thousand processes, each ended at some point between two durable steps; the next one looks whether
//! what was acknowledged is whole and nothing is half there, and goes on.
//!
//! The processes are this test program, told to run one test alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use espalier_proto::v1 as pb;
use espalier_store::{Range, Store};
use espalier_tests::S3;

use crate::records::{
    ALIASES, AliasRecord, CheckpointRecord, MANIFESTS, PUBLISHED, checkpoint_key, decode,
    digest_key, history_key, manifest_key,
};
use crate::service::{Options, RegistryService};
use crate::{
    Blobs, Bucket, ChunkId, Digest, FileEntry, Kind, Lineage, Manifest, NoJobs, Patience,
    RegistryError, SystemClock,
};

/// Processes that are ended, over all folders.
const KILLS: u32 = 1000;

/// Registries that are worked on at once.
const FOLDERS: u32 = 4;

/// More than the points that one process comes by before it has done all its work.
const POINTS: u32 = 40;

/// The same with chunks in a bucket, which takes a call of a server for each.
const S3_KILLS: u32 = 16;

/// Buckets that are worked on at once.
const BUCKETS: u32 = 2;

const FOLDER: &str = "ESPALIER_CRASH_FOLDER";
const BUCKET: &str = "ESPALIER_CRASH_BUCKET";
const SEED: &str = "ESPALIER_CRASH_SEED";

#[test]
fn whatever_is_killed_nothing_is_half_there() {
    let aborted = hammer_all(KILLS, FOLDERS, |_| Vec::new());
    assert_reached(
        &aborted,
        &[
            "chunks staged",
            "chunks synced",
            "chunk renamed",
            "folders synced",
            "publish planned",
            "publish committed",
            "chunk removed",
            "chunks swept",
        ],
    );
}

#[test]
fn nor_is_it_in_a_bucket() {
    let Some(s3) = S3::shared() else { return };
    let aborted = hammer_all(S3_KILLS, BUCKETS, |_| {
        let mut settings = s3.settings();
        settings.push((BUCKET.to_owned(), format!("s3://{}/crash", s3.bucket())));
        settings
    });
    assert_reached(&aborted, &["object put"]);
}

/// Ends so many processes, over several places whose settings are given; says where, how often.
fn hammer_all(
    kills: u32,
    places: u32,
    settings: impl Fn(u32) -> Vec<(String, String)>,
) -> BTreeMap<String, u32> {
    let program = std::env::current_exe().expect("runs");
    let aborted = std::thread::scope(|scope| {
        let places: Vec<_> = (0..places)
            .map(|place| {
                let (program, settings) = (&program, settings(place));
                scope.spawn(move || hammer(program, place, places, kills / places, &settings))
            })
            .collect();
        let aborted = places.into_iter().map(|f| f.join().expect("holds"));
        aborted.fold(BTreeMap::<String, u32>::new(), |mut all, of_one| {
            for (point, count) in of_one {
                *all.entry(point).or_default() += count;
            }
            all
        })
    });
    println!("{aborted:?}");
    assert_eq!(aborted.values().sum::<u32>(), kills);
    aborted
}

#[track_caller]
fn assert_reached(aborted: &BTreeMap<String, u32>, expected: &[&str]) {
    for &point in expected {
        assert!(
            aborted.contains_key(point),
            "never at {point:?}: {aborted:?}"
        );
    }
}

/// Ends processes on one place of several; says where, how often.
fn hammer(
    program: &Path,
    place: u32,
    places: u32,
    kills: u32,
    settings: &[(String, String)],
) -> BTreeMap<String, u32> {
    // What a process that is ended leaves to the kernel is the same in memory, without the disk's waits.
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let dir = dir.expect("tempdir");
    let mut aborted = BTreeMap::new();
    let mut seed = place;
    while aborted.values().sum::<u32>() < kills {
        seed += places;
        let child = Command::new(program)
            .args([
                "--exact",
                "crash_tests::one_process",
                "--ignored",
                "--nocapture",
            ])
            .env(FOLDER, dir.path())
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .env(SEED, seed.to_string())
            .env(
                "ESPALIER_ABORT_AT",
                (seed.wrapping_mul(2_654_435_761) % POINTS).to_string(),
            )
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .output()
            .expect("starts");
        let said = String::from_utf8_lossy(&child.stderr);
        match said
            .lines()
            .find_map(|line| line.strip_prefix("aborted at "))
        {
            Some(point) => *aborted.entry(point.to_owned()).or_default() += 1,
            None => assert!(
                child.status.success(),
                "seed {seed}: {said}{}",
                String::from_utf8_lossy(&child.stdout)
            ),
        }
    }
    aborted
}

/// Looks at what is there, then publishes, moves aliases, deletes and collects until it is ended.
#[test]
#[ignore = "run by the test above, in processes of its own"]
fn one_process() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let seed: u32 = std::env::var(SEED).expect("set").parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("runs").block_on(async {
        let process = Process::open(Path::new(&folder)).await;
        process.check().await;
        process.work(seed).await;
        process.check().await;
        process.store.close().await;
    });
}

struct Process {
    service: RegistryService,
    store: Store,
    journal: std::path::PathBuf,
}

impl Process {
    async fn open(folder: &Path) -> Self {
        let store = Store::open(
            folder.join("state.redb"),
            espalier_store::Options::default(),
        )
        .await
        .expect("opens");
        let blobs = match std::env::var(BUCKET) {
            Ok(url) => {
                let bucket = Bucket::open(&url, std::env::vars(), Patience::default()).await;
                Blobs::in_bucket(bucket.expect("opens"), None).await
            }
            Err(_) => Blobs::open(folder.join("blobs")).await,
        };
        let blobs = blobs.expect("opens");
        let leader = store.campaign("crash").await.expect("leads");
        // Nothing is pinned without a lease and nothing has a grace: collections remove what they can.
        let options = Options {
            lease_ttl: Duration::ZERO,
            grace: Duration::ZERO,
            ..Options::default()
        };
        let clock = Arc::new(SystemClock::default());
        Self {
            service: RegistryService::with(blobs, leader, Arc::new(NoJobs), options, clock),
            store,
            journal: folder.join("journal"),
        }
    }

    /// Writes down what was acknowledged, or is about to be taken back.
    fn note(&self, word: &str, digest: Digest) {
        use std::io::Write as _;
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(&self.journal);
        writeln!(file.expect("opens"), "{word} {digest}").expect("writes");
    }

    async fn work(&self, seed: u32) {
        for round in 0..2 {
            let number = seed * 2 + round;
            // Some chunks are new, some are those of checkpoints before or of deleted ones.
            let contents: Vec<Vec<u8>> = (0..4_u32)
                .map(|i| {
                    if i < 2 {
                        vec![i as u8 + (number % 7) as u8; 3000]
                    } else {
                        number.to_le_bytes().repeat(50 * i as usize)
                    }
                })
                .collect();
            let Some(digest) = self.publish(number, &contents).await else {
                continue;
            };
            self.note("published", digest);
            if number.is_multiple_of(3) {
                self.roll_back().await;
            }
            self.delete_oldest().await;
        }
        for _ in 0..2 {
            self.service.collect(false).await.expect("collects");
        }
    }

    async fn publish(&self, number: u32, contents: &[Vec<u8>]) -> Option<Digest> {
        let write = pb::WriteChunksRequest {
            chunks: contents
                .iter()
                .map(|bytes| pb::Chunk {
                    id: Some(ChunkId::of(bytes).to_proto()),
                    data: bytes.clone().into(),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        self.service.write(write).await.expect("writes");
        let file = |(i, bytes): (usize, &Vec<u8>)| FileEntry {
            path: i.to_string(),
            size: bytes.len() as u64,
            media_type: String::new(),
            chunks: vec![ChunkId::of(bytes)],
        };
        let files = contents.iter().enumerate().map(file).collect();
        let report = serde_json::json!({ "number": number });
        let lineage = Lineage::default();
        let manifest = Manifest::new(Kind::Model, "x", files, lineage, Some(report));
        let manifest = manifest.expect("valid").to_bytes().expect("json");
        let request = pb::PublishCheckpointRequest {
            request_id: number.to_string(),
            name: "x".to_owned(),
            manifest: manifest.into(),
            alias: "a".to_owned(),
            reason: format!("number {number}"),
            ..Default::default()
        };
        let answer = self.service.publish(request).await.expect("publishes");
        answer.digest.parse().ok()
    }

    async fn roll_back(&self) {
        let request = pb::UpdateAliasRequest {
            name: "x".to_owned(),
            alias: "a".to_owned(),
            target: Some(pb::update_alias_request::Target::Previous(true)),
            ..Default::default()
        };
        match self.service.change_alias(request).await {
            Ok(_) | Err(RegistryError::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn delete_oldest(&self) {
        let page = self
            .store
            .range(Range::prefix(PUBLISHED))
            .await
            .expect("reads");
        if page.entries.len() < 4 {
            return;
        }
        let record: CheckpointRecord = decode(&page.entries[0]).expect("reads");
        self.note("deleting", record.digest);
        match self.service.delete(&record.digest.to_string()).await {
            Ok(()) | Err(RegistryError::Kept { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn check(&self) {
        let manifests = self
            .store
            .range(Range::prefix(MANIFESTS))
            .await
            .expect("reads");
        let mut found = BTreeSet::new();
        for entry in &manifests.entries {
            let digest = Digest::of(&entry.value);
            assert_eq!(
                entry.key,
                manifest_key(digest),
                "a manifest under another's name"
            );
            let manifest = Manifest::parse(&entry.value).expect("is whole");
            for id in manifest.chunks() {
                let verified = self.service.0.blobs.get_verified(id).await;
                assert!(
                    verified.is_ok(),
                    "chunk {} of {digest}: {verified:?}",
                    id.digest
                );
            }
            found.insert(digest);
        }
        let published = self
            .store
            .range(Range::prefix(PUBLISHED))
            .await
            .expect("reads");
        let mut listed = BTreeSet::new();
        for entry in &published.entries {
            let record: CheckpointRecord = decode(entry).expect("reads");
            for key in [
                digest_key(record.digest),
                checkpoint_key("x", record.sequence),
            ] {
                assert!(
                    self.store.get(&key).await.expect("reads").is_some(),
                    "{key}"
                );
            }
            listed.insert(record.digest);
        }
        assert_eq!(found, listed, "manifests and records differ");
        for entry in self
            .store
            .range(Range::prefix(ALIASES))
            .await
            .expect("reads")
            .entries
        {
            let alias: AliasRecord = decode(&entry).expect("reads");
            let to = alias.digest.expect("never removed");
            assert!(found.contains(&to), "alias to {to}, which is not there");
            let history = history_key("x", "a", alias.sequence);
            assert!(
                self.store.get(&history).await.expect("reads").is_some(),
                "{history}"
            );
        }
        let journal = std::fs::read_to_string(&self.journal).unwrap_or_default();
        let of = |word: &str| -> BTreeSet<Digest> {
            let lines = journal.lines().filter_map(|line| line.strip_prefix(word));
            lines
                .map(|digest| digest.trim().parse().expect("a digest"))
                .collect()
        };
        let (acknowledged, taken_back) = (of("published"), of("deleting"));
        for digest in acknowledged.difference(&taken_back) {
            assert!(
                found.contains(digest),
                "{digest} was acknowledged and is gone"
            );
        }
    }
}
