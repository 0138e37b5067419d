use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use espalier_proto::v1::ListWorkersRequest;
use espalier_proto::v1::worker_service_client::WorkerServiceClient;
use serde_json::Value;

use crate::{Feed, Ran, TinyJob, program, signal, start, subset};

/// Longest wait for anything; far more than it takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Coordinators and workers as processes of this machine.
pub struct Cluster {
    dir: tempfile::TempDir,
    /// Of the store that the coordinators share; one has its own.
    store: Option<String>,
    /// What the user's token allows, where tokens are asked for.
    scopes: Option<Vec<String>>,
    ports: Vec<u16>,
    coordinators: Vec<Option<Child>>,
    workers: Vec<Option<Child>>,
}

impl Cluster {
    /// Starts a coordinator and so many workers, and waits until all are registered.
    pub fn start(workers: usize) -> Self {
        Self::with(1, None, None, workers)
    }

    /// The same with tokens: of each worker one of its own, and one with these scopes for the command.
    pub fn start_guarded(scopes: &[&str], workers: usize) -> Self {
        let scopes = scopes.iter().map(|&scope| scope.to_owned()).collect();
        Self::with(1, None, Some(scopes), workers)
    }

    /// Starts two coordinators on a store in etcd, of which one leads, and so many workers.
    pub fn start_pair(store: String, workers: usize) -> Self {
        Self::with(2, Some(store), None, workers)
    }

    fn with(
        coordinators: usize,
        store: Option<String>,
        scopes: Option<Vec<String>>,
        workers: usize,
    ) -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            store,
            scopes,
            ports: (0..coordinators).map(|_| free_port()).collect(),
            coordinators: (0..coordinators).map(|_| None).collect(),
            workers: (0..workers).map(|_| None).collect(),
        };
        subset(&cluster.data(), 2000, 400);
        for index in 0..coordinators {
            cluster.start_coordinator_at(index);
        }
        cluster.make_tokens(workers);
        for index in 0..workers {
            cluster.start_worker(index);
        }
        cluster.wait("all workers to register", |cluster| {
            connected(&cluster.cli(&["worker", "list", "-o", "json"])) == workers
        });
        cluster
    }

    /// Makes the tokens, by the one that the coordinator has made. The user's comes last: from then on
    /// the command has it.
    fn make_tokens(&self, workers: usize) {
        let Some(scopes) = &self.scopes else {
            return;
        };
        for index in 0..workers {
            let name = format!("worker-{index}");
            self.make_token(&name, &[format!("worker:{name}")]);
        }
        self.make_token("user", scopes);
    }

    fn make_token(&self, name: &str, scopes: &[String]) {
        let mut args = vec!["token", "create", "--name", name];
        for scope in scopes {
            args.extend(["--scope", scope]);
        }
        let ran = self.cli(&args);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        fs::write(self.token_file(name), ran.stdout).unwrap();
    }

    fn token_file(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.token"))
    }

    /// The test's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Folder of the images: 2000 to train, 400 to validate.
    pub fn data(&self) -> PathBuf {
        self.dir().join("images")
    }

    /// Folder of the registry's blobs.
    pub fn blobs(&self) -> PathBuf {
        self.dir().join("coordinator/blobs")
    }

    /// Where the coordinators listen, by commas.
    pub fn endpoint(&self) -> String {
        let each = (0..self.ports.len()).map(|index| self.endpoint_at(index));
        each.collect::<Vec<_>>().join(",")
    }

    /// Where one coordinator listens.
    pub fn endpoint_at(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[index])
    }

    /// Starts the coordinator, again or for the first time.
    pub fn start_coordinator(&mut self) {
        self.start_coordinator_at(0);
    }

    /// As [`Cluster::start_coordinator`], of several.
    pub fn start_coordinator_at(&mut self, index: usize) {
        let mut command = Command::new(program("espalier-coordinator"));
        command
            .args(["--listen", &format!("127.0.0.1:{}", self.ports[index])])
            .arg("--data-dir")
            .arg(self.dir().join("coordinator"));
        if let Some(store) = &self.store {
            command.args(["--store", store]);
        }
        if self.scopes.is_some() {
            command.args(["--auth", "required"]);
        }
        self.coordinators[index] = Some(self.spawn(command, &format!("coordinator-{index}")));
        self.wait("the coordinator to listen", |cluster| {
            let endpoint = cluster.endpoint_at(index);
            cluster
                .cli(&["worker", "list", "--endpoint", &endpoint])
                .code
                == 0
        });
    }

    /// The coordinator that leads; `None` while none does.
    pub fn leader(&self) -> Option<usize> {
        (0..self.ports.len()).find(|&index| self.leads(index))
    }

    /// Whether this coordinator leads. It takes a while to answer when nobody does.
    pub fn leads(&self, index: usize) -> bool {
        leads(&self.endpoint_at(index))
    }

    /// Sends a coordinator a signal, by its name without SIG.
    pub fn signal_coordinator(&self, index: usize, name: &str) {
        if let Some(child) = &self.coordinators[index] {
            signal(name, child.id());
        }
    }

    /// Starts a worker, again or for the first time.
    pub fn start_worker(&mut self, index: usize) {
        self.start_worker_from(index, &program("espalier-worker"));
    }

    /// Starts a worker that the cluster did not have so far.
    pub fn add_worker(&mut self) {
        self.workers.push(None);
        self.start_worker(self.workers.len() - 1);
    }

    /// As [`Cluster::start_worker`], from a program that lies elsewhere.
    pub fn start_worker_from(&mut self, index: usize, program: &Path) {
        let name = format!("worker-{index}");
        let mut command = Command::new(program);
        command
            .args(["agent", "--coordinator", &self.endpoint(), "--id", &name])
            .arg("--dir")
            .arg(self.dir().join(&name));
        if self.scopes.is_some() {
            command.env("ESPALIER_TOKEN_FILE", self.token_file(&name));
        }
        self.workers[index] = Some(self.spawn(command, &name));
    }

    fn spawn(&self, mut command: Command, name: &str) -> Child {
        start(&mut command, &self.dir().join(format!("{name}.log")))
    }

    /// Kills the coordinator with SIGKILL.
    pub fn kill_coordinator(&mut self) {
        self.kill_coordinator_at(0);
    }

    /// As [`Cluster::kill_coordinator`], of several.
    pub fn kill_coordinator_at(&mut self, index: usize) {
        kill(self.coordinators[index].take());
    }

    /// Kills a worker's agent with SIGKILL; its ranks are left to notice.
    pub fn kill_worker(&mut self, index: usize) {
        kill(self.workers[index].take());
    }

    /// Processes of ranks of this cluster, in the order of their ids.
    pub fn ranks(&self) -> Vec<u32> {
        ranks_below(self.dir())
    }

    /// The ranks' processes on a worker, in the order of their seats.
    pub fn ranks_of(&self, index: usize) -> Vec<u32> {
        let folder = self.dir().join(format!("worker-{index}"));
        let mut found: Vec<(u64, u32)> = ranks_below(&folder)
            .into_iter()
            .filter_map(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
                let mut words = line.split(|&byte| byte == 0);
                words.find(|word| *word == b"--seat")?;
                let seat = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
                Some((seat, pid))
            })
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, pid)| pid).collect()
    }

    /// Kills a process with SIGKILL; one that has just ended is as well.
    pub fn kill_process(pid: u32) {
        signal("KILL", pid);
    }

    /// Stops a process with SIGSTOP, as a machine that hangs would.
    pub fn stop_process(pid: u32) {
        signal("STOP", pid);
    }

    /// Runs `espalier` with these arguments against this cluster.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(program("espalier"));
        command.args(args).env("ESPALIER_ENDPOINT", self.endpoint());
        if self.scopes.is_some() {
            let own = self.token_file("user");
            let admin = self.dir().join("coordinator/admin-token");
            command.env(
                "ESPALIER_TOKEN_FILE",
                if own.is_file() { own } else { admin },
            );
        }
        Ran::of(&mut command)
    }

    /// Submits a job file's text; the answer is the job's id.
    #[track_caller]
    pub fn submit(&self, toml: &str) -> String {
        let ran = self.try_submit(toml);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stdout.trim().to_owned()
    }

    /// As [`Cluster::submit`], whatever comes of it.
    pub fn try_submit(&self, toml: &str) -> Ran {
        let file = self.dir().join("job.toml");
        fs::write(&file, toml).unwrap();
        self.cli(&["job", "submit", "-f", file.to_str().unwrap()])
    }

    /// The job as JSON.
    #[track_caller]
    pub fn job(&self, job_id: &str) -> Value {
        let ran = self.cli(&["job", "describe", job_id, "-o", "json"]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// Waits for the job's end; gives it as JSON.
    #[track_caller]
    pub fn ended(&self, job_id: &str) -> Value {
        self.wait(&format!("job {job_id} to end"), |cluster| {
            cluster.job(job_id)["state"].as_str().is_some_and(is_end)
        });
        self.job(job_id)
    }

    /// Runs a job to its success; gives its id and its feed.
    #[track_caller]
    pub fn run(&self, job: &TinyJob) -> (String, Feed) {
        let job_id = self.submit(&job.toml());
        self.succeeded(&job_id);
        let feed = Feed::read(&self.endpoint(), &job_id);
        (job_id, feed)
    }

    /// Waits for the job's success.
    #[track_caller]
    pub fn succeeded(&self, job_id: &str) -> Value {
        let job = self.ended(job_id);
        assert_eq!(job["state"], "SUCCEEDED", "{job:#}");
        job
    }

    /// Pulls a checkpoint into a new folder of this name.
    #[track_caller]
    pub fn pull(&self, reference: &str, name: &str) -> PathBuf {
        let dir = self.dir().join("pulled").join(name);
        let ran = self.cli(&["checkpoint", "pull", reference, dir.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        dir
    }

    /// The published models, as JSON.
    pub fn models(&self) -> Vec<Value> {
        let ran = self.cli(&["checkpoint", "list", "-o", "json"]);
        let listed: Value = serde_json::from_str(&ran.stdout).unwrap();
        listed.as_array().cloned().unwrap_or_default()
    }

    /// Waits until `holds`.
    #[track_caller]
    pub fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "waited {} s for {what}",
                PATIENCE.as_secs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The ends of all processes' logs.
    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.dir()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|e| e == "log") {
                let log = fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(25)..].join("\n");
                text.push_str(&format!("--- {}\n{end}\n", entry.path().display()));
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for index in 0..self.workers.len() {
            self.kill_worker(index);
        }
        for index in 0..self.coordinators.len() {
            self.kill_coordinator_at(index);
        }
        for pid in self.ranks() {
            Self::kill_process(pid);
        }
    }
}

/// How many workers are connected, of what `worker list -o json` said.
pub fn connected(listed: &Ran) -> usize {
    let known: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
    let known = known.as_array().into_iter().flatten();
    known.filter(|worker| worker["connected"] == true).count()
}

/// Whether a job stays in this state.
pub fn is_end(state: &str) -> bool {
    ["SUCCEEDED", "FAILED", "CANCELLED"].contains(&state)
}

/// Processes of ranks whose gang's folder is in this one, in the order of their ids.
pub fn ranks_below(folder: &Path) -> Vec<u32> {
    let mine = folder.canonicalize().unwrap();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is_rank = line.split(|&byte| byte == 0).nth(1) == Some(b"rank");
            let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            is_rank && folder.starts_with(&mine)
        })
        .collect();
    pids.sort_unstable();
    pids
}

/// Whether this coordinator serves what only a leader does.
pub fn leads(endpoint: &str) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let asked = async {
            let mut client = WorkerServiceClient::connect(endpoint.to_owned())
                .await
                .ok()?;
            client.list_workers(ListWorkersRequest {}).await.ok()
        };
        let answer = tokio::time::timeout(Duration::from_secs(4), asked).await;
        answer.is_ok_and(|answer| answer.is_some())
    })
}

/// A port nobody listens on, below those that the system gives to connections: one of them must not
/// take it while the coordinator is down.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = 20_000 + (std::process::id() % 100) as u16 * 100;
    loop {
        let port = own + NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        // It may have ended by itself; either way it is reaped.
        let _ = child.kill();
        let _ = child.wait();
    }
}
