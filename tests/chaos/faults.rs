use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::time::Duration;

use espalier_random::{ChaCha8Rng, Rng as _};
use espalier_tests::signal;

use crate::site::{COORDINATORS, MEMBERS, Site, WORKERS};

/// What is done to the site, and undone a while later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A rank of a worker is killed, if it has one.
    KillRank(String),
    /// A rank of a worker is stopped, as a process that hangs.
    StopRank(String),
    /// A host's process is killed, and started again.
    Kill(String),
    /// A host's process is stopped, and wakes up.
    Stop(String),
    /// A host's cable is pulled.
    Cut(String),
    /// Two workers do not reach each other, but everyone else.
    Part(String, String),
    /// A worker's disk is full.
    FillDisk(String),
}

impl Fault {
    /// One of all kinds, on a host that may have it.
    pub(crate) fn draw(random: &mut ChaCha8Rng) -> Self {
        let mut host =
            |kind: &str, count: usize| format!("{kind}-{}", random.random_range(0..count));
        let (worker, other) = (host("worker", WORKERS), host("worker", WORKERS));
        let coordinator = host("coordinator", COORDINATORS);
        let member = host("etcd", MEMBERS);
        match random.random_range(0..11) {
            0 => Self::KillRank(worker),
            1 => Self::StopRank(worker),
            2 => Self::Kill(worker),
            3 => Self::Cut(worker),
            4 => Self::FillDisk(worker),
            5 if worker != other => Self::Part(worker, other),
            5 => Self::Stop(worker),
            6 => Self::Kill(coordinator),
            7 => Self::Stop(coordinator),
            8 => Self::Cut(coordinator),
            9 => Self::Kill(member),
            _ => Self::Cut(member),
        }
    }

    pub(crate) fn inject(&self, site: &mut Site) {
        match self {
            Self::KillRank(worker) => site
                .ranks(worker)
                .iter()
                .for_each(|&pid| signal("KILL", pid)),
            Self::StopRank(worker) => site
                .ranks(worker)
                .iter()
                .for_each(|&pid| signal("STOP", pid)),
            Self::Kill(host) => site.kill(host),
            Self::Stop(host) => site.signal(host, "STOP"),
            Self::Cut(host) => site.network().cut(host),
            Self::Part(one, other) => site.network().part(&[one.clone(), other.clone()], true),
            Self::FillDisk(worker) => fill(site, worker),
        }
    }

    pub(crate) fn undo(&self, site: &mut Site) {
        match self {
            // Others have killed and replaced it by now, or will.
            Self::KillRank(_) | Self::StopRank(_) => {}
            Self::Kill(host) => site.start_process(host),
            Self::Stop(host) => site.signal(host, "CONT"),
            Self::Cut(host) => site.network().mend(host),
            Self::Part(one, other) => site.network().part(&[one.clone(), other.clone()], false),
            Self::FillDisk(worker) => {
                // It is there: the disk is not shared.
                fs::remove_file(site.folder(worker).join(BALLAST)).unwrap();
            }
        }
    }

    /// How long it lasts: from what nobody notices to well beyond every lease.
    pub(crate) fn duration(random: &mut ChaCha8Rng) -> Duration {
        Duration::from_millis(random.random_range(500..12_000))
    }

    /// How long the site is left alone before it.
    pub(crate) fn pause(random: &mut ChaCha8Rng) -> Duration {
        Duration::from_millis(random.random_range(500..10_000))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillRank(worker) => write!(f, "the rank on {worker} is killed"),
            Self::StopRank(worker) => write!(f, "the rank on {worker} is stopped"),
            Self::Kill(host) => write!(f, "{host} is killed"),
            Self::Stop(host) => write!(f, "{host} is stopped"),
            Self::Cut(host) => write!(f, "{host} is cut off"),
            Self::Part(one, other) => write!(f, "{one} and {other} do not reach each other"),
            Self::FillDisk(worker) => write!(f, "the disk of {worker} is full"),
        }
    }
}

/// The file that fills a disk.
const BALLAST: &str = "ballast";

fn fill(site: &Site, worker: &str) {
    let mut ballast = File::create(site.folder(worker).join(BALLAST)).unwrap();
    let mut block = vec![0; 1 << 20];
    while !block.is_empty() {
        // The last bytes too.
        if ballast.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
}
