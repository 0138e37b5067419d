use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use espalier_tests::{
    Ran, connected, leads, program, ranks_below, repository, signal, start, subset,
};

use crate::network::Network;

/// Members of etcd, coordinators and workers.
pub(crate) const MEMBERS: usize = 3;
pub(crate) const COORDINATORS: usize = 2;
pub(crate) const WORKERS: usize = 3;

/// Longest wait for what must come back once nothing disturbs it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Size of a worker's disk.
const DISK: &str = "256m";

/// A site of eight machines, each a host of the network with one process that stays.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    network: Network,
    processes: BTreeMap<String, Child>,
    /// Worker's folders that are disks of their own.
    disks: Vec<PathBuf>,
}

impl Site {
    /// Starts all, and waits until every worker is registered.
    ///
    /// # Errors
    /// Why this machine cannot have such a site.
    pub(crate) fn start() -> Result<Self, String> {
        let hosts = [
            ("etcd", MEMBERS),
            ("coordinator", COORDINATORS),
            ("worker", WORKERS),
        ];
        let hosts = hosts.iter().flat_map(|&(kind, count)| names(kind, count));
        if !repository().join(".cache/etcd/etcd").is_file() {
            return Err("there is no etcd in .cache: run make setup".to_owned());
        }
        let mut site = Self {
            network: Network::new(hosts.clone().collect())?,
            dir: tempfile::tempdir().map_err(|error| error.to_string())?,
            processes: BTreeMap::new(),
            disks: Vec::new(),
        };
        for worker in names("worker", WORKERS) {
            site.mount(&worker)?;
        }
        subset(&site.data(), 2000, 400);
        for host in hosts {
            site.start_process(&host);
        }
        site.wait("all workers to register", |site| {
            connected(&site.cli(&["worker", "list", "-o", "json"])) == WORKERS
        });
        Ok(site)
    }

    fn mount(&mut self, worker: &str) -> Result<(), String> {
        let disk = self.dir.path().join(worker);
        fs::create_dir(&disk).map_err(|error| error.to_string())?;
        let size = format!("size={DISK}");
        let mut mount = Command::new("mount");
        let ran = Ran::of(mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk));
        if ran.code != 0 {
            return Err(ran.stderr);
        }
        self.disks.push(disk);
        Ok(())
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// The folder of a host's process.
    pub(crate) fn folder(&self, host: &str) -> PathBuf {
        self.dir.path().join(host)
    }

    /// Starts a host's process, again or for the first time.
    pub(crate) fn start_process(&mut self, host: &str) {
        let kind = host.split('-').next().unwrap_or_default();
        let command = match kind {
            "etcd" => self.etcd(host),
            "coordinator" => self.coordinator(host),
            _ => self.agent(host),
        };
        let child = self.spawn(command, host);
        self.processes.insert(host.to_owned(), child);
    }

    fn etcd(&self, host: &str) -> Command {
        let at = |name: &str, port: u16| format!("http://{}:{port}", self.network.address(name));
        let members = names("etcd", MEMBERS).map(|name| format!("{name}={}", at(&name, 2380)));
        let mut command = self
            .network
            .command(host, repository().join(".cache/etcd/etcd"));
        command
            .args(["--name", host, "--log-level", "warn"])
            .arg("--data-dir")
            .arg(self.folder(host))
            .args(["--listen-client-urls", &at(host, 2379)])
            .args(["--advertise-client-urls", &at(host, 2379)])
            .args(["--listen-peer-urls", &at(host, 2380)])
            .args(["--initial-advertise-peer-urls", &at(host, 2380)])
            .args(["--initial-cluster", &members.collect::<Vec<_>>().join(",")]);
        command
    }

    fn coordinator(&self, host: &str) -> Command {
        let members = names("etcd", MEMBERS).map(|m| format!("{}:2379", self.network.address(&m)));
        let members = members.collect::<Vec<_>>().join(",");
        let mut command = self.network.command(host, program("espalier-coordinator"));
        command
            .args(["--listen", &format!("{}:7878", self.network.address(host))])
            .args(["--store", &format!("etcd://{members}")])
            .arg("--data-dir")
            .arg(self.dir.path().join("shared"));
        command
    }

    fn agent(&self, host: &str) -> Command {
        let mut command = self.network.command(host, program("espalier-worker"));
        command
            .args(["agent", "--coordinator", &self.endpoint(), "--id", host])
            .args(["--host", &self.network.address(host)])
            .arg("--dir")
            .arg(self.folder(host).join("agent"));
        command
    }

    fn spawn(&self, mut command: Command, name: &str) -> Child {
        start(&mut command, &self.dir.path().join(format!("{name}.log")))
    }

    /// Kills a host's process with SIGKILL; ranks that it started are left to notice.
    pub(crate) fn kill(&mut self, host: &str) {
        if let Some(mut child) = self.processes.remove(host) {
            // It may have ended by itself; either way it is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a host's process a signal, by its name without SIG.
    pub(crate) fn signal(&self, host: &str, name: &str) {
        if let Some(child) = self.processes.get(host) {
            signal(name, child.id());
        }
    }

    /// The ranks on a worker.
    pub(crate) fn ranks(&self, worker: &str) -> Vec<u32> {
        ranks_below(&self.folder(worker))
    }

    /// Where the coordinators listen, by commas.
    pub(crate) fn endpoint(&self) -> String {
        let each = names("coordinator", COORDINATORS).map(|host| self.endpoint_of(&host));
        each.collect::<Vec<_>>().join(",")
    }

    pub(crate) fn endpoint_of(&self, coordinator: &str) -> String {
        format!("http://{}:7878", self.network.address(coordinator))
    }

    /// The coordinator that leads; `None` while none does.
    pub(crate) fn leader(&self) -> Option<String> {
        names("coordinator", COORDINATORS).find(|host| leads(&self.endpoint_of(host)))
    }

    /// Runs `espalier`.
    pub(crate) fn cli(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(program("espalier"));
        Ran::of(command.args(args).env("ESPALIER_ENDPOINT", self.endpoint()))
    }

    /// Waits until `holds`.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            let waited = PATIENCE.as_secs();
            assert!(Instant::now() < deadline, "waited {waited} s for {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Keeps the logs when the test fails.
    fn keep_logs(&self) {
        let kept = std::env::temp_dir().join(format!("espalier-chaos-{}", std::process::id()));
        let _ = fs::create_dir_all(&kept);
        for entry in fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.path().extension().is_some_and(|e| e == "log") {
                let _ = fs::copy(entry.path(), kept.join(entry.file_name()));
            }
        }
        eprintln!("the processes' logs are in {}", kept.display());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
        for host in self.processes.keys().cloned().collect::<Vec<_>>() {
            self.kill(&host);
        }
        for pid in ranks_below(self.dir.path()) {
            signal("KILL", pid);
        }
        for disk in &self.disks {
            unmount(disk);
        }
    }
}

/// Its last users have only just been killed.
fn unmount(disk: &Path) {
    for _ in 0..50 {
        let unmounted = Command::new("umount")
            .arg(disk)
            .stderr(Stdio::null())
            .status();
        if unmounted.is_ok_and(|status| status.success()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    eprintln!("{} is still mounted", disk.display());
}

/// The hosts of a kind.
pub(crate) fn names(kind: &str, count: usize) -> impl Iterator<Item = String> + Clone {
    let kind = kind.to_owned();
    (0..count).map(move |index| format!("{kind}-{index}"))
}
