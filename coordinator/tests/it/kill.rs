//! The real program, killed.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_proto::v1::{GetJobRequest, SubmitJobRequest};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::bench::{PATIENCE, spec};

struct Program(Child);

impl Program {
    fn start(data_dir: &Path, address: &str) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_espalier-coordinator"))
            .args(["--listen", address, "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Program {
    /// SIGKILL.
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

async fn connect(address: &str) -> JobServiceClient<Channel> {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let connected = async {
        loop {
            match endpoint.connect().await {
                Ok(channel) => return JobServiceClient::new(channel),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = TempDir::new().unwrap();
    let address = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let mut accepted = Vec::new();
    for round in 0..4 {
        let program = Program::start(dir.path(), &address);
        let mut jobs = connect(&address).await;
        for n in 0..5 {
            let request = SubmitJobRequest {
                request_id: format!("r{round}-{n}"),
                spec_toml: spec(1, 1),
            };
            let answer = jobs.submit_job(request).await.unwrap().into_inner();
            accepted.push(answer.job.unwrap().job_id);
        }
        drop(program);
    }
    let _program = Program::start(dir.path(), &address);
    let mut jobs = connect(&address).await;
    for job_id in &accepted {
        let request = GetJobRequest {
            job_id: job_id.clone(),
        };
        let job = jobs
            .get_job(request)
            .await
            .unwrap()
            .into_inner()
            .job
            .unwrap();
        assert_eq!(&job.job_id, job_id);
    }
    let distinct: std::collections::BTreeSet<_> = accepted.iter().collect();
    assert_eq!(distinct.len(), 20);
}
