use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::repository;

/// An S3-compatible server on this machine, in memory, for all tests of a process. It ends with the
/// process: its standard input is closed then.
pub struct S3 {
    port: u16,
    buckets: AtomicU32,
    _server: Child,
}

impl S3 {
    /// The server. `None`, with a word on stderr, where it is not installed.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<S3>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[])).as_ref()
    }

    /// One that does not heed conditions.
    pub fn careless() -> Option<&'static Self> {
        static CARELESS: OnceLock<Option<S3>> = OnceLock::new();
        CARELESS
            .get_or_init(|| Self::start(&["--careless"]))
            .as_ref()
    }

    fn start(args: &[&str]) -> Option<Self> {
        let python = interpreter();
        if !python.is_file() {
            let missing = format!(
                "there is no {}: run scripts/python-env s3",
                python.display()
            );
            assert!(
                std::env::var_os("ESPALIER_REQUIRE_S3").is_none(),
                "{missing}"
            );
            eprintln!("SKIPPED, NOT TESTED: {missing}");
            return None;
        }
        let mut server = Command::new(python)
            .arg(repository().join("tests/s3_server.py"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        let told = BufReader::new(server.stdout.take().unwrap()).read_line(&mut port);
        assert!(told.unwrap() > 0, "the server ended; what it said is above");
        Some(Self {
            port: port.trim().parse().unwrap(),
            buckets: AtomicU32::new(0),
            _server: server,
        })
    }

    /// What clients need of their environment.
    pub fn settings(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", "us-east-1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Makes a bucket of its own for a test; its name.
    #[track_caller]
    pub fn bucket(&self) -> String {
        let name = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        self.ask("PUT", &name, b"");
        name
    }

    /// Gives the object at `bucket/key` these bytes.
    #[track_caller]
    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.ask("PUT", path, bytes);
    }

    /// The bytes of the object at `bucket/key`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Vec<u8> {
        self.ask("GET", path, b"")
    }

    /// Removes the object at `bucket/key`.
    #[track_caller]
    pub fn delete(&self, path: &str) {
        self.ask("DELETE", path, b"");
    }

    /// Keys of a bucket, at most a thousand.
    #[track_caller]
    pub fn list(&self, bucket: &str) -> Vec<String> {
        let page = self.ask("GET", &format!("{bucket}?list-type=2"), b"");
        let page = String::from_utf8(page).unwrap();
        let keys = page.split("<Key>").skip(1);
        keys.map(|rest| rest.split("</Key>").next().unwrap().to_owned())
            .collect()
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        // It looks at who asks, and not at the signature.
        let head = format!(
            "{method} /{path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|at| at == b"\r\n\r\n");
        let body = answer.split_off(end.unwrap() + 4);
        let head = String::from_utf8(answer).unwrap();
        let status = head.split(' ').nth(1).unwrap();
        assert!(status.starts_with('2'), "{method} {path}: {head}");
        body
    }
}

fn interpreter() -> PathBuf {
    let set_up = || repository().join(".cache/python-s3/bin/python");
    std::env::var_os("ESPALIER_S3_PYTHON").map_or_else(set_up, PathBuf::from)
}
