//! `espalier up`: a coordinator and workers on one machine, restarted when they end.

mod child;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use espalier_proto::v1::ListWorkersRequest;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::{Device, Global, UpArgs};
use crate::exit::Failure;
use crate::{connect, output, siblings};
use child::Program;

/// Time for the coordinator to listen and for the workers to register.
const START_DEADLINE: Duration = Duration::from_secs(30);

pub(crate) async fn run(global: &Global, args: UpArgs) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("making the folder {}", args.dir.display()))?;
    let dir = std::path::absolute(&args.dir)
        .with_context(|| format!("resolving {}", args.dir.display()))?;
    if tokio::net::TcpListener::bind(args.listen).await.is_err() {
        return Err(Failure::Usage(format!(
            "--listen {}: the address is taken or not of this machine: stop the other program or choose another",
            args.listen
        )));
    }
    let endpoint = format!("http://{}", args.listen);
    let global = Global {
        endpoint: endpoint.clone(),
        ..global.clone()
    };
    let stop = CancellationToken::new();
    let mut programs = JoinSet::new();
    programs.spawn(child::keep_running(coordinator(&args, &dir)?, stop.clone()));
    for index in 0..args.workers {
        let worker = worker(&args, &dir, &endpoint, index)?;
        programs.spawn(child::keep_running(worker, stop.clone()));
    }

    let outcome = tokio::select! {
        outcome = serve(&global, &args) => outcome,
        Some(ended) = programs.join_next() => Err(ended.map_or_else(
            |e| anyhow::Error::new(e).into(),
            Failure::from,
        )),
        () = interrupted() => Ok(()),
    };
    eprintln!("stopping");
    stop.cancel();
    while programs.join_next().await.is_some() {}
    outcome
}

/// Says when all is up, then never returns.
async fn serve(global: &Global, args: &UpArgs) -> Result<(), Failure> {
    ready(global, args.workers).await?;
    output::text(&format!(
        "ready: {} with {} workers; state in {}",
        global.endpoint,
        args.workers,
        args.dir.display()
    ))?;
    std::future::pending().await
}

async fn interrupted() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

/// Waits until the coordinator answers and knows all workers.
async fn ready(global: &Global, workers: u32) -> Result<(), Failure> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let connected = connected(global).await.unwrap_or(0);
        if connected >= workers as usize {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(anyhow::anyhow!(
                "{connected} of {workers} workers registered within {} s: their output above says why",
                START_DEADLINE.as_secs()
            )
            .into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn connected(global: &Global) -> Result<usize, Failure> {
    let answer = connect::workers(global)
        .await?
        .list_workers(connect::unary(ListWorkersRequest {}))
        .await
        .map_err(Failure::rpc("listing the workers"))?;
    Ok(answer
        .into_inner()
        .workers
        .iter()
        .filter(|w| w.connected)
        .count())
}

fn coordinator(args: &UpArgs, dir: &Path) -> Result<Program, Failure> {
    Ok(Program {
        name: "coordinator".to_owned(),
        path: siblings::find("espalier-coordinator")?,
        args: vec![
            "--listen".into(),
            args.listen.to_string().into(),
            "--data-dir".into(),
            dir.join("coordinator").into(),
        ],
    })
}

fn worker(args: &UpArgs, dir: &Path, endpoint: &str, index: u32) -> Result<Program, Failure> {
    let name = format!("worker-{index}");
    Ok(Program {
        path: siblings::find("espalier-worker")?,
        args: vec![
            "agent".into(),
            "--coordinator".into(),
            endpoint.into(),
            "--dir".into(),
            dir.join(&name).into(),
            "--id".into(),
            name.clone().into(),
            "--slots".into(),
            args.slots.to_string().into(),
            "--device".into(),
            match args.device {
                Device::Cpu => "cpu",
                Device::Cuda => "cuda",
            }
            .into(),
            "--host".into(),
            "127.0.0.1".into(),
        ],
        name,
    })
}
