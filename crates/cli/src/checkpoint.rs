//! `espalier checkpoint ...`

mod alias;
mod change;
mod diff;
mod export;
mod transfer;

use anyhow::Context as _;
use espalier_proto::v1::{
    Checkpoint, GetCheckpointRequest, GetCheckpointResponse, ListCheckpointsRequest,
};
use serde_json::{Value, json};

use crate::args::{CheckpointCommand, Global, ListArgs, Output};
use crate::exit::Failure;
use crate::output::{Listing, bytes, short, time};
use crate::{connect, output, report};

pub(crate) use transfer::fetch;

pub(crate) async fn run(global: &Global, command: CheckpointCommand) -> Result<(), Failure> {
    match command {
        CheckpointCommand::List(args) => list(global, args).await,
        CheckpointCommand::Describe { reference } => describe(global, reference).await,
        CheckpointCommand::Push(args) => transfer::push(global, args).await,
        CheckpointCommand::Pull {
            reference,
            dir,
            signed_by,
        } => transfer::pull(global, &reference, &dir, &signed_by).await,
        CheckpointCommand::Keygen { file } => transfer::keygen(global, &file),
        CheckpointCommand::Diff { a, b } => diff::run(global, &a, &b).await,
        CheckpointCommand::Verify { reference, dir } => {
            transfer::verify(global, &reference, &dir).await
        }
        CheckpointCommand::Export(args) => export::run(global, args).await,
        CheckpointCommand::Alias(command) => alias::run(global, command).await,
        CheckpointCommand::Label(args) => change::label(global, args).await,
        CheckpointCommand::Rm { reference } => change::delete(global, reference).await,
    }
}

async fn list(global: &Global, args: ListArgs) -> Result<(), Failure> {
    let mut client = connect::registry(global).await?;
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    let mut request = ListCheckpointsRequest {
        page_size: 0,
        page_token: String::new(),
        name: args.name.unwrap_or_default(),
        include_training: args.training,
        filter: args.filter.unwrap_or_default(),
    };
    while checkpoints.len() < args.limit as usize {
        request.page_size = args.limit - checkpoints.len() as u32;
        let page = client
            .list_checkpoints(connect::unary(request.clone()))
            .await
            .map_err(Failure::rpc("listing the checkpoints"))?
            .into_inner();
        output::warn_stale(page.stale_s);
        checkpoints.extend(page.checkpoints);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    Listing {
        header: vec![
            "NAME", "ALIASES", "DIGEST", "KIND", "SIZE", "STEP", "CREATED", "JOB", "LABELS",
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
        labels(checkpoint),
    ]
}

/// `team=vision fold=3`, in the order of the names.
fn labels(checkpoint: &Checkpoint) -> String {
    let mut labels: Vec<String> = checkpoint
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    labels.sort_unstable();
    labels.join(" ")
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
        "parent": checkpoint.parent,
        "teacher": checkpoint.teacher,
        "labels": checkpoint.labels,
        "keep": checkpoint.keep,
    })
}

async fn describe(global: &Global, reference: String) -> Result<(), Failure> {
    let operation = format!("looking up checkpoint {reference}");
    let GetCheckpointResponse {
        checkpoint,
        manifest,
        signatures,
        stale_s,
    } = connect::registry(global)
        .await?
        .get_checkpoint(connect::unary(GetCheckpointRequest {
            reference,
            lease: String::new(),
        }))
        .await
        .map_err(Failure::rpc(operation))?
        .into_inner();
    output::warn_stale(stale_s);
    let checkpoint = checkpoint.context("the registry's answer holds no checkpoint")?;
    let manifest: Value = serde_json::from_slice(&manifest).context("reading the manifest")?;
    let signers: Vec<String> = signatures
        .iter()
        .map(|signature| {
            let hex = signature
                .public_key
                .iter()
                .map(|byte| format!("{byte:02x}"));
            format!("ed25519:{}", hex.collect::<String>())
        })
        .collect();
    match global.output {
        Output::Json => output::json(&json!({
            "checkpoint": value(&checkpoint),
            "manifest": manifest,
            "signed_by": signers,
        })),
        Output::Table => output::text(&sheet(&checkpoint, &manifest, &signers)),
    }
}

fn sheet(checkpoint: &Checkpoint, manifest: &Value, signers: &[String]) -> String {
    let files: Vec<Vec<String>> = manifest["files"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|file| {
            vec![
                file["path"].as_str().unwrap_or_default().to_owned(),
                bytes(file["size"].as_u64().unwrap_or_default()),
                file["chunks"].as_array().map_or(0, Vec::len).to_string(),
            ]
        })
        .collect();
    let line = |title: &str, text: &str| match text {
        "" => String::new(),
        text => format!("{title}: {text}\n"),
    };
    let mut text = format!(
        "{} {}\n{}{}{}{}made by job {} at step {}\n{}{}\n{}",
        checkpoint.name,
        checkpoint.digest,
        line("aliases", &checkpoint.aliases.join(" ")),
        line("labels", &labels(checkpoint)),
        line("signed by", &signers.join(" ")),
        if checkpoint.keep { "kept: yes\n" } else { "" },
        checkpoint.job_id,
        checkpoint.step,
        line("parent", &checkpoint.parent),
        line("teacher", &checkpoint.teacher),
        output::table(&["FILE", "SIZE", "CHUNKS"], &files)
    );
    if !manifest["report"].is_null() {
        text.push_str("\n\n");
        text.push_str(&report::card(&manifest["report"]));
    }
    text
}
