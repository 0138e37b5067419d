//! `espalier checkpoint ...`

use std::path::Path;

use anyhow::Context as _;
use espalier_proto::v1::{
    Checkpoint, GetCheckpointRequest, GetCheckpointResponse, ListAliasHistoryRequest,
    ListCheckpointsRequest,
};
use serde_json::{Value, json};

use crate::args::{CheckpointCommand, Global, Output};
use crate::exit::Failure;
use crate::output::{Listing, bytes, short, time};
use crate::{connect, output, report};

mod export;

pub(crate) async fn run(global: &Global, command: CheckpointCommand) -> Result<(), Failure> {
    match command {
        CheckpointCommand::List {
            name,
            training,
            limit,
        } => list(global, name.unwrap_or_default(), training, limit).await,
        CheckpointCommand::Describe { reference } => describe(global, reference).await,
        CheckpointCommand::Pull { reference, dir } => {
            let digest = fetch(global, &reference, &dir).await?;
            match global.output {
                Output::Json => output::json(&json!({ "digest": digest, "dir": dir })),
                Output::Table => output::text(&digest),
            }
        }
        CheckpointCommand::Export(args) => export::run(global, args).await,
        CheckpointCommand::History { reference } => history(global, &reference).await,
    }
}

async fn list(
    global: &Global,
    name: String,
    include_training: bool,
    limit: u32,
) -> Result<(), Failure> {
    let mut client = connect::registry(&global.endpoint).await?;
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    let mut page_token = String::new();
    while checkpoints.len() < limit as usize {
        let request = ListCheckpointsRequest {
            page_size: limit - checkpoints.len() as u32,
            page_token,
            name: name.clone(),
            include_training,
        };
        let page = client
            .list_checkpoints(connect::unary(request))
            .await
            .map_err(Failure::rpc("listing the checkpoints"))?
            .into_inner();
        checkpoints.extend(page.checkpoints);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Listing {
        header: vec![
            "NAME", "ALIASES", "DIGEST", "KIND", "SIZE", "STEP", "CREATED", "JOB",
        ],
        rows: checkpoints.iter().map(row).collect(),
        json: checkpoints.iter().map(value).collect(),
    }
    .print(global.output)
}

fn row(checkpoint: &Checkpoint) -> Vec<String> {
    vec![
        checkpoint.name.clone(),
        checkpoint.aliases.join(" "),
        short(&checkpoint.digest),
        checkpoint.kind.clone(),
        bytes(checkpoint.size),
        checkpoint.step.to_string(),
        time(checkpoint.create_time.as_ref()),
        checkpoint.job_id.clone(),
    ]
}

fn value(checkpoint: &Checkpoint) -> Value {
    json!({
        "name": checkpoint.name,
        "digest": checkpoint.digest,
        "aliases": checkpoint.aliases,
        "create_time": time(checkpoint.create_time.as_ref()),
        "size": checkpoint.size,
        "kind": checkpoint.kind,
        "job_id": checkpoint.job_id,
        "step": checkpoint.step,
    })
}

async fn describe(global: &Global, reference: String) -> Result<(), Failure> {
    let operation = format!("looking up checkpoint {reference}");
    let GetCheckpointResponse {
        checkpoint,
        manifest,
    } = connect::registry(&global.endpoint)
        .await?
        .get_checkpoint(connect::unary(GetCheckpointRequest { reference }))
        .await
        .map_err(Failure::rpc(operation))?
        .into_inner();
    let checkpoint = checkpoint.context("the registry's answer holds no checkpoint")?;
    let manifest: Value = serde_json::from_slice(&manifest).context("reading the manifest")?;
    match global.output {
        Output::Json => output::json(&json!({
            "checkpoint": value(&checkpoint),
            "manifest": manifest,
        })),
        Output::Table => output::text(&sheet(&checkpoint, &manifest)),
    }
}

fn sheet(checkpoint: &Checkpoint, manifest: &Value) -> String {
    let files: Vec<Vec<String>> = manifest["files"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|file| {
            vec![
                file["path"].as_str().unwrap_or_default().to_owned(),
                bytes(file["size"].as_u64().unwrap_or_default()),
                file["digest"].as_str().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    let mut text = format!(
        "{} {}\naliases: {}\nmade by job {} at step {}\n\n{}",
        checkpoint.name,
        checkpoint.digest,
        checkpoint.aliases.join(" "),
        checkpoint.job_id,
        checkpoint.step,
        output::table(&["FILE", "SIZE", "DIGEST"], &files)
    );
    if !manifest["report"].is_null() {
        text.push_str("\n\n");
        text.push_str(&report::card(&manifest["report"]));
    }
    text
}

/// Pulls `reference` into `dir` with a progress bar; returns the checkpoint's digest.
pub(crate) async fn fetch(global: &Global, reference: &str, dir: &Path) -> Result<String, Failure> {
    let bar = indicatif::ProgressBar::new(0).with_style(
        indicatif::ProgressStyle::with_template(
            "{bar:24} {decimal_bytes}/{decimal_total_bytes} {msg}",
        )
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()),
    );
    bar.set_message(reference.to_owned());
    let shown = bar.clone();
    let endpoint = connect::leading(&global.endpoint).await?;
    let client = espalier_registry::Client::connect(&endpoint).await?;
    let pulled = client
        .pull(reference, dir, move |done, total| {
            shown.set_length(total);
            shown.set_position(done);
        })
        .await?;
    bar.finish_and_clear();
    Ok(pulled.digest)
}

async fn history(global: &Global, reference: &str) -> Result<(), Failure> {
    let (name, alias) = reference.split_once(':').unwrap_or((reference, "latest"));
    let request = ListAliasHistoryRequest {
        name: name.to_owned(),
        alias: alias.to_owned(),
        page_size: 500,
        page_token: String::new(),
    };
    let moves = connect::registry(&global.endpoint)
        .await?
        .list_alias_history(connect::unary(request))
        .await
        .map_err(Failure::rpc(format!("reading the history of {reference}")))?
        .into_inner()
        .moves;
    Listing {
        header: vec!["MOVE", "TIME", "FROM", "TO", "JOB", "REASON"],
        rows: moves
            .iter()
            .map(|m| {
                vec![
                    m.sequence.to_string(),
                    time(m.time.as_ref()),
                    short(&m.from_digest),
                    short(&m.to_digest),
                    m.job_id.clone(),
                    m.reason.clone(),
                ]
            })
            .collect(),
        json: moves
            .iter()
            .map(|m| {
                json!({
                    "sequence": m.sequence,
                    "time": time(m.time.as_ref()),
                    "from_digest": m.from_digest,
                    "to_digest": m.to_digest,
                    "job_id": m.job_id,
                    "reason": m.reason,
                })
            })
            .collect(),
    }
    .print(global.output)
}
