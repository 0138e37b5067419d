//! How fast a folder is pushed and pulled on this machine, beside hashing the same bytes on one core and
//! copying them, and how much memory that takes: `cargo run --release -p espalier-registry --example transfer -- 1`
//! for 1 GiB. The registry is another process of this program; they share the machine's cores.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use espalier_registry::{Blobs, Client, Kind, NoJobs, PublishRequest, RegistryService};
use espalier_store::{Options, Store};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Bytes of a tensor: 16 MiB of f32.
const TENSOR: usize = 16 << 20;

/// Pulls at once.
const AT_ONCE: usize = 64;

/// Bytes of the weights that each of them pulls.
const PULLED: usize = 64 << 20;

/// First argument of the process that is the registry; the second is its folder.
const SERVE: &str = "serve";

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [SERVE, dir] => runtime.block_on(serve(Path::new(dir))),
        [] => runtime.block_on(run(1)),
        [gib] => runtime.block_on(run(gib
            .parse()
            .context("the argument is a number of GiB")?)),
        _ => anyhow::bail!("one argument: a number of GiB"),
    }
}

async fn run(gib: usize) -> anyhow::Result<()> {
    let tensors = gib * (1 << 30) / TENSOR;
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("model");
    std::fs::create_dir(&folder)?;
    let file = folder.join("model.safetensors");
    write_model(&file, tensors)?;
    let bytes = std::fs::metadata(&file)?.len() as f64;
    let per_second = |started: Instant| bytes / 1e6 / started.elapsed().as_secs_f64();

    let started = Instant::now();
    hash(&file)?;
    let hashing = per_second(started);
    let started = Instant::now();
    std::fs::copy(&file, dir.path().join("copy"))?;
    std::fs::File::open(dir.path().join("copy"))?.sync_all()?;
    let copying = per_second(started);
    std::fs::remove_file(dir.path().join("copy"))?;
    println!("sha-256, one core   {hashing:7.0} MB/s");
    println!(
        "copy and fsync      {copying:7.0} MB/s  {:.2} of sha-256",
        copying / hashing
    );

    let registry = Registry::start(dir.path())?;
    let client = Client::connect(&registry.endpoint).await?;
    let request = PublishRequest::new("model", Kind::Model);
    let show = |what: &str, speed: f64| {
        println!(
            "{what}{speed:7.0} MB/s  {:.2} of sha-256  {:.2} of the copy",
            speed / hashing,
            speed / copying
        );
    };
    let started = Instant::now();
    let pushed = client.push_folder(&folder, &request, |_, _| {}).await?;
    show("push                ", per_second(started));
    let started = Instant::now();
    let again = client.push_folder(&folder, &request, |_, _| {}).await?;
    show("push, nothing new   ", per_second(started));
    let started = Instant::now();
    client
        .pull(&pushed.digest, &dir.path().join("pulled"), |_, _| {})
        .await?;
    show("pull                ", per_second(started));
    println!(
        "moved {} and {} of {bytes} bytes",
        pushed.moved.moved_bytes, again.moved.moved_bytes
    );
    let peaks = || {
        println!(
            "peak memory: client {:.0} MB, registry {:.0} MB",
            peak_rss(std::process::id()),
            peak_rss(registry.process.id())
        );
    };
    peaks();
    let (speed, seconds) = pull_at_once(&registry.endpoint, dir.path()).await?;
    show("64 pulls at once    ", speed);
    let [first, .., last] = seconds[..] else {
        anyhow::bail!("no pull");
    };
    println!("the first had its copy after {first:.1} s, the last after {last:.1} s");
    peaks();
    Ok(())
}

/// Pulls a model of 64 MiB by 64 clients at once, each into a folder of its own, which goes once it is
/// there. MB/s of all together, and after how many seconds each was done, in order.
async fn pull_at_once(endpoint: &str, dir: &Path) -> anyhow::Result<(f64, Vec<f64>)> {
    let folder = dir.join("small");
    std::fs::create_dir(&folder)?;
    write_model(&folder.join("model.safetensors"), PULLED / TENSOR)?;
    let client = Client::connect(endpoint).await?;
    let request = PublishRequest::new("small", Kind::Model);
    let pushed = client.push_folder(&folder, &request, |_, _| {}).await?;
    let started = Instant::now();
    let mut pulls = tokio::task::JoinSet::new();
    for number in 0..AT_ONCE {
        let (endpoint, digest) = (endpoint.to_owned(), pushed.digest.clone());
        let target = dir.join(format!("pulled-{number}"));
        pulls.spawn(async move {
            let client = Client::connect(&endpoint).await?;
            client.pull(&digest, &target, |_, _| {}).await?;
            let seconds = started.elapsed().as_secs_f64();
            tokio::fs::remove_dir_all(target).await?;
            anyhow::Ok(seconds)
        });
    }
    let mut seconds = Vec::with_capacity(AT_ONCE);
    while let Some(pull) = pulls.join_next().await {
        seconds.push(pull??);
    }
    seconds.sort_by(f64::total_cmp);
    let whole = seconds.last().context("no pull")?;
    Ok(((AT_ONCE * PULLED) as f64 / 1e6 / whole, seconds))
}

/// The other process; it ends with this value.
struct Registry {
    process: Child,
    endpoint: String,
}

impl Registry {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut endpoint = String::new();
        let output = process.stdout.take().context("the registry's output")?;
        BufReader::new(output).read_line(&mut endpoint)?;
        Ok(Self {
            process,
            endpoint: endpoint.trim().to_owned(),
        })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A registry in the folder, which prints its endpoint and serves until it is killed.
async fn serve(dir: &Path) -> anyhow::Result<()> {
    let store = Store::open(dir.join("state.redb"), Options::default()).await?;
    let blobs = Blobs::open(dir.join("blobs")).await?;
    let leader = store.campaign("bench").await?;
    let service = RegistryService::new(blobs, leader, Arc::new(NoJobs)).into_server();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    Server::builder()
        .initial_stream_window_size(espalier_proto::SERVER_WINDOW)
        .initial_connection_window_size(espalier_proto::SERVER_WINDOW)
        .max_frame_size(espalier_proto::MAX_FRAME)
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

/// Random weights between -1 and 1, as trained ones are no easier to compress.
fn write_model(path: &Path, tensors: usize) -> anyhow::Result<()> {
    let members: Vec<String> = (0..tensors)
        .map(|i| {
            let (begin, end) = (i * TENSOR, (i + 1) * TENSOR);
            format!(
                r#""t{i}":{{"dtype":"F32","shape":[{}],"data_offsets":[{begin},{end}]}}"#,
                TENSOR / 4
            )
        })
        .collect();
    let header = format!("{{{}}}", members.join(","));
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = 1_u64;
    for _ in 0..tensors * TENSOR / 4 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let weight = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        file.write_all(&weight.to_le_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

fn hash(path: &Path) -> anyhow::Result<()> {
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 4 << 20];
    let mut hasher = Sha256::new();
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            std::hint::black_box(hasher.finalize());
            return Ok(());
        }
        hasher.update(&buffer[..read]);
    }
}

/// Most memory that a process has had, in MB.
fn peak_rss(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() * 1024.0 / 1e6
}
