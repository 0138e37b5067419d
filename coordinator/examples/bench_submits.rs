//! Durable submits per second through a coordinator of its own: `scripts/bench-submits` runs it on the
//! embedded store and on etcd. The limit beside it is the disk's: appends of 4 KiB, each synced.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use espalier_coordinator::{Options, StoreOptions, run};
use espalier_proto::v1::SubmitJobRequest;
use espalier_proto::v1::job_service_client::JobServiceClient;
use espalier_store::EtcdOptions;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

const JOB: &str = r#"
name = "bench"
[model]
preset = "deit-tiny"
classes = 10
[data]
format = "idx"
train = "/none"
validation = "/none"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
[compress]
mode = "dense"
tune = { steps = 10 }
[train]
global_batch = 64
micro_batch = 16
[publish]
name = "bench"
"#;

#[derive(Parser)]
struct Args {
    /// Client URLs of etcd, by commas; the embedded store without.
    #[arg(long, value_delimiter = ',')]
    etcd: Vec<String>,
    /// Jobs to submit.
    #[arg(long, default_value_t = 8000)]
    jobs: u32,
    /// Clients, each with one submit under way at a time.
    #[arg(long, default_value_t = 256)]
    clients: u32,
    /// Folder on the disk to measure.
    #[arg(long)]
    dir: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let syncs = syncs_per_second(&args.dir)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let store = if args.etcd.is_empty() {
        StoreOptions::Embedded
    } else {
        StoreOptions::Etcd(Box::new(EtcdOptions {
            endpoints: args.etcd.clone(),
            prefix: format!("/bench/{}/", std::process::id()),
            ..EtcdOptions::default()
        }))
    };
    let name = match &store {
        StoreOptions::Embedded => "embedded",
        StoreOptions::Etcd(_) => "etcd",
    };
    let options = Options {
        data_dir: args.dir.join(format!("coordinator-{name}")),
        store,
        ..Options::default()
    };
    let stop = CancellationToken::new();
    let served = tokio::spawn(run(options, listener, stop.clone()));
    let seconds = submit_all(&url, &args).await?.as_secs_f64();
    stop.cancel();
    served.await??;
    let rate = f64::from(args.jobs) / seconds;
    println!(
        "{name}: {rate:.0} durable submits/s ({} jobs, {} clients); this disk syncs {syncs:.0}/s: {:.1} jobs per sync's time",
        args.jobs,
        args.clients,
        rate / syncs
    );
    Ok(())
}

async fn submit_all(url: &str, args: &Args) -> anyhow::Result<Duration> {
    let channel = Channel::from_shared(url.to_owned())?.connect().await?;
    // Answers once the coordinator leads.
    submit(channel.clone(), "first".to_owned()).await?;
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..args.clients {
        let channel = channel.clone();
        let (jobs, step) = (args.jobs, args.clients as usize);
        clients.spawn(async move {
            for job in (client..jobs).step_by(step) {
                submit(channel.clone(), format!("r{job}")).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(started.elapsed())
}

async fn submit(channel: Channel, request_id: String) -> anyhow::Result<()> {
    let request = SubmitJobRequest {
        request_id,
        spec_toml: JOB.to_owned(),
    };
    JobServiceClient::new(channel).submit_job(request).await?;
    Ok(())
}

fn syncs_per_second(dir: &Path) -> anyhow::Result<f64> {
    const SYNCS: u32 = 500;
    let path = dir.join("syncs");
    let mut file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    let started = Instant::now();
    for _ in 0..SYNCS {
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
    }
    Ok(f64::from(SYNCS) / started.elapsed().as_secs_f64())
}
