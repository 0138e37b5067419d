//! The audit log: a line of JSON for each call that changes something, and for each that was refused.
//!
//! A line that is written is not lost with the process. Calls that change who may do what, or what a
//! name means, leave two: one on the disk before they begin, and one before they are answered.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use espalier_registry::{Digest, blocking};
use serde::Serialize;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};

use crate::clock::{timestamp, wall};

/// Largest file, in bytes; then the next begins.
const MAX_FILE: u64 = 64 << 20;

/// Files that are kept besides the one that is written.
const KEPT: u32 = 8;

/// Longest target in a line, in bytes.
const MAX_TARGET: usize = 512;

/// The log. Clones share it.
#[derive(Clone)]
pub(crate) struct Audit(Arc<Inner>);

struct Inner {
    path: PathBuf,
    limit: u64,
    calls: AtomicU64,
    file: Mutex<Written>,
}

struct Written {
    file: Arc<File>,
    size: u64,
}

/// The log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("audit log {}: {source}", path.display())]
pub struct AuditError {
    path: PathBuf,
    source: io::Error,
}

/// A line.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Entry {
    /// When, in UTC.
    time: String,
    /// Number of the call in this process: lines of one call have the same.
    call: u64,
    /// Name of the token; `anonymous` where nobody is asked for one, `unknown` before that is known.
    pub(crate) who: String,
    /// SHA-256 of the client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Digest>,
    peer: String,
    method: String,
    /// What it was done to.
    pub(crate) target: String,
    /// `begun`, the code of the answer, or `abandoned` by the client.
    outcome: String,
    /// Why it was refused.
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

/// A call that is under way; noted when it is over.
pub(crate) struct Open {
    audit: Audit,
    entry: Option<Entry>,
}

impl Entry {
    fn of(request: &http::Request<Body>) -> Self {
        let extensions = request.extensions();
        let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        let tcp = extensions.get::<TcpConnectInfo>();
        let peer = tcp.or(tls.map(TlsConnectInfo::get_ref));
        let certificates = tls.and_then(TlsConnectInfo::peer_certs);
        let own = certificates.as_ref().and_then(|chain| chain.first());
        Self {
            who: "unknown".to_owned(),
            certificate: own.map(|der| Digest::of(der)),
            peer: peer
                .and_then(TcpConnectInfo::remote_addr)
                .map_or_else(String::new, |address| address.to_string()),
            method: short(request.uri().path()),
            ..Self::default()
        }
    }
}

/// A method without its package.
fn short(path: &str) -> String {
    let path = path
        .trim_start_matches('/')
        .trim_start_matches("espalier.v1.");
    cut(path)
}

/// What a client sent, no longer than a line bears.
fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_TARGET);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl Audit {
    /// Opens the log, and goes on after what is in it.
    pub(crate) fn open_file(path: &Path) -> Result<Self, AuditError> {
        Self::with_limit(path, MAX_FILE)
    }

    fn with_limit(path: &Path, limit: u64) -> Result<Self, AuditError> {
        let written = Written::open(path).map_err(|source| AuditError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            limit,
            calls: AtomicU64::new(0),
            file: Mutex::new(written),
        })))
    }

    /// The line of a call that has just come.
    pub(crate) fn entry(&self, request: &http::Request<Body>) -> Entry {
        Entry {
            call: self.0.calls.fetch_add(1, Ordering::Relaxed) + 1,
            ..Entry::of(request)
        }
    }

    /// Notes that a call was refused.
    pub(crate) async fn denied(&self, mut entry: Entry, status: &Status) {
        entry.reason = cut(status.message());
        entry.outcome = outcome(Some(status));
        self.note(entry, false).await;
    }

    /// Notes on the disk that a call begins.
    ///
    /// # Errors
    /// When that is impossible: it must not begin then.
    pub(crate) async fn begun(&self, entry: &Entry) -> Result<(), Status> {
        let mut entry = entry.clone();
        "begun".clone_into(&mut entry.outcome);
        self.append(entry, true).await.map_err(|error| {
            tracing::error!(%error, path = %self.0.path.display(), "the audit log cannot be written");
            Status::unavailable("the audit log cannot be written; see the coordinator's log")
        })
    }

    /// A call that is under way.
    pub(crate) fn open(&self, entry: Entry) -> Open {
        Open {
            audit: self.clone(),
            entry: Some(entry),
        }
    }

    async fn note(&self, entry: Entry, sync: bool) {
        if let Err(error) = self.append(entry, sync).await {
            tracing::error!(%error, path = %self.0.path.display(), "the audit log cannot be written");
        }
    }

    async fn append(&self, entry: Entry, sync: bool) -> io::Result<()> {
        let audit = self.clone();
        blocking(move || audit.write(entry, sync)).await
    }

    fn write(&self, mut entry: Entry, sync: bool) -> io::Result<()> {
        entry.time = timestamp(wall()).to_string();
        entry.target = cut(&entry.target);
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        let file = {
            let mut written = self.lock();
            if written.size > 0 && written.size + line.len() as u64 > self.0.limit {
                written.file.sync_data()?;
                shift(&self.0.path)?;
                *written = Written::open(&self.0.path)?;
            }
            // One call, so that lines do not mix.
            (&*written.file).write_all(&line)?;
            written.size += line.len() as u64;
            Arc::clone(&written.file)
        };
        if sync { file.sync_data() } else { Ok(()) }
    }

    /// A panic leaves at worst a line without its end.
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        if let Some(folder) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self {
            size: file.metadata()?.len(),
            file: Arc::new(file),
        })
    }
}

/// Gives each file the next number; the last goes.
fn shift(path: &Path) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    for number in (1..KEPT).rev() {
        match fs::rename(numbered(number), numbered(number + 1)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    fs::rename(path, numbered(1))
}

fn outcome(status: Option<&Status>) -> String {
    let code = status.map_or(Code::Ok, Status::code);
    format!("{code:?}")
}

impl Open {
    /// Notes how it ended.
    pub(crate) async fn over(mut self, status: Option<&Status>, sync: bool) {
        if let Some(mut entry) = self.entry.take() {
            entry.outcome = outcome(status);
            entry.reason = status.map(|s| cut(s.message())).unwrap_or_default();
            self.audit.note(entry, sync).await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            "abandoned".clone_into(&mut entry.outcome);
            if let Err(error) = self.audit.write(entry, false) {
                tracing::error!(%error, "the audit log cannot be written");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn lines_tell_how_a_call_ended_also_when_nobody_waited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open_file(&path).unwrap();
        let entry = Entry {
            target: "\u{e9}\n".repeat(1000),
            ..Entry::default()
        };
        audit.begun(&entry).await.unwrap();
        audit.open(entry.clone()).over(None, true).await;
        audit
            .open(entry.clone())
            .over(Some(&Status::aborted("moved")), false)
            .await;
        drop(audit.open(entry.clone()));
        audit.denied(entry, &Status::permission_denied("no")).await;
        let outcomes: Vec<String> = lines(&path)
            .iter()
            .map(|line| line["outcome"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            outcomes,
            ["begun", "Ok", "Aborted", "abandoned", "PermissionDenied"]
        );
        // Another process goes on after them.
        let again = Audit::open_file(&path).unwrap();
        again.begun(&Entry::default()).await.unwrap();
        assert_eq!(lines(&path).len(), 6);
        assert!(lines(&path)[0]["target"].as_str().unwrap().len() <= MAX_TARGET);
    }

    #[tokio::test]
    async fn files_are_bounded_in_size_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::with_limit(&path, 1000).unwrap();
        for call in 0..200 {
            let entry = Entry {
                call,
                ..Entry::default()
            };
            audit.note(entry, false).await;
        }
        let files: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(files.len() as u32, KEPT + 1);
        for file in files {
            assert!(file.metadata().unwrap().len() <= 1000);
        }
        // The newest are there, in order.
        assert_eq!(lines(&path).last().unwrap()["call"], 199);
        let before = lines(&dir.path().join("audit.jsonl.1"));
        let (first, last) = (&lines(&path)[0]["call"], &before.last().unwrap()["call"]);
        assert_eq!(first.as_u64(), last.as_u64().map(|call| call + 1));
    }
}
