use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::cluster::free_port;
use crate::{repository, start};

/// Longest wait for a cluster to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Real etcd, one member or several, on this machine.
pub struct Etcd {
    dir: tempfile::TempDir,
    members: Vec<Member>,
    extra: Vec<String>,
}

struct Member {
    client: u16,
    peer: u16,
    child: Option<Child>,
}

impl Etcd {
    /// Starts so many members with further arguments for each, and waits until they answer. `None`,
    /// with a word on stderr, where there is no etcd: `make setup` fetches it. The members do not wait
    /// for the disk; what is tested is processes that are killed, not machines.
    pub fn start(members: usize, extra: &[&str]) -> Option<Self> {
        if !program("etcd").is_file() {
            let missing = format!("there is no {}: run make setup", program("etcd").display());
            assert!(
                std::env::var_os("ESPALIER_REQUIRE_ETCD").is_none(),
                "{missing}"
            );
            eprintln!("SKIPPED, NOT TESTED: {missing}");
            return None;
        }
        let mut etcd = Self {
            dir: tempfile::tempdir().unwrap(),
            members: (0..members)
                .map(|_| Member {
                    client: free_port(),
                    peer: free_port(),
                    child: None,
                })
                .collect(),
            extra: extra.iter().map(|&text| text.to_owned()).collect(),
        };
        for index in 0..members {
            etcd.launch(index);
        }
        for index in 0..members {
            etcd.ready(index);
        }
        Some(etcd)
    }

    /// Where the members listen, as URLs.
    pub fn endpoints(&self) -> Vec<String> {
        let addresses = self.addresses();
        let scheme = self.scheme();
        addresses
            .iter()
            .map(|a| format!("{scheme}://{a}"))
            .collect()
    }

    /// Clients need certificates where the members have them.
    fn scheme(&self) -> &'static str {
        if self.extra.iter().any(|arg| arg == "--cert-file") {
            "https"
        } else {
            "http"
        }
    }

    /// The cluster as `--store` takes it.
    pub fn url(&self) -> String {
        format!("etcd://{}", self.addresses().join(","))
    }

    fn addresses(&self) -> Vec<String> {
        let members = self.members.iter();
        members.map(|m| format!("127.0.0.1:{}", m.client)).collect()
    }

    /// Starts a member again, from what it had stored.
    pub fn restart(&mut self, index: usize) {
        self.launch(index);
        self.ready(index);
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, index: usize) {
        if let Some(mut child) = self.members[index].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops a member with SIGSTOP: it takes connections, and answers nothing.
    pub fn hang(&self, index: usize) {
        if let Some(child) = &self.members[index].child {
            crate::signal("STOP", child.id());
        }
    }

    /// The member that leads the others.
    pub fn leading(&self) -> usize {
        let rows = self.ctl(&["endpoint", "status", "-w", "json"]);
        let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
        let leads = |row: &serde_json::Value| {
            row["Status"]["leader"] == row["Status"]["header"]["member_id"]
        };
        rows.as_array().unwrap().iter().position(leads).unwrap()
    }

    /// Runs etcdctl against all members; gives its stdout.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> String {
        let output = Command::new(program("etcdctl"))
            .args(["--endpoints", &self.addresses().join(",")])
            .args(args)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "etcdctl {args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn launch(&mut self, index: usize) {
        let cluster: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(at, member)| format!("m{at}=http://127.0.0.1:{}", member.peer))
            .collect();
        let member = &self.members[index];
        let client = format!("{}://127.0.0.1:{}", self.scheme(), member.client);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let name = format!("m{index}");
        let mut command = Command::new(program("etcd"));
        command
            // The flag for it has a word in its name that is kept for the collectives.
            .env("ETCD_UNSAFE_NO_FSYNC", "true")
            .args(["--name", &name, "--log-level", "warn"])
            .arg("--data-dir")
            .arg(self.dir.path().join(&name))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(&self.extra);
        let log = self.dir.path().join(format!("{name}.log"));
        self.members[index].child = Some(start(&mut command, &log));
    }

    #[track_caller]
    fn ready(&self, index: usize) {
        let deadline = Instant::now() + PATIENCE;
        while !self.healthy(index) {
            if Instant::now() > deadline {
                let log = self.dir.path().join(format!("m{index}.log"));
                panic!(
                    "etcd does not answer: {}",
                    std::fs::read_to_string(log).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn healthy(&self, index: usize) -> bool {
        if self.scheme() == "https" {
            // It listens once it serves, and asks for a certificate first.
            return TcpStream::connect(("127.0.0.1", self.members[index].client)).is_ok();
        }
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.members[index].client))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                // It may have ended by itself; either way it is reaped.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn program(name: &str) -> PathBuf {
    let set_up = || repository().join(".cache/etcd");
    std::env::var_os("ESPALIER_ETCD")
        .map_or_else(set_up, PathBuf::from)
        .join(name)
}
