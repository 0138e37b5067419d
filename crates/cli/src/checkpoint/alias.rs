//! `espalier checkpoint alias ...`

use espalier_proto::v1::update_alias_request::Target;
use espalier_proto::v1::{AliasMove, ListAliasHistoryRequest, UpdateAliasRequest};
use serde_json::json;

use super::change::actor;
use crate::args::{AliasCommand, Global, Output};
use crate::exit::Failure;
use crate::output::{Listing, short, time};
use crate::{connect, output};

pub(super) async fn run(global: &Global, command: AliasCommand) -> Result<(), Failure> {
    let request = match command {
        AliasCommand::History { alias } => return history(global, &alias).await,
        AliasCommand::Set {
            alias,
            digest,
            to_previous,
            protect,
            expect,
            force,
            reason,
        } => UpdateAliasRequest {
            target: match digest {
                Some(digest) => Some(Target::Digest(digest)),
                None => to_previous.then_some(Target::Previous(true)),
            },
            protect,
            expected_digest: expect.map(|expect| match expect.as_str() {
                "none" => String::new(),
                _ => expect,
            }),
            ..request(&alias, force, reason)
        },
        AliasCommand::Rollback {
            alias,
            force,
            reason,
        } => UpdateAliasRequest {
            target: Some(Target::Previous(true)),
            ..request(&alias, force, reason)
        },
        AliasCommand::Rm {
            alias,
            force,
            reason,
        } => UpdateAliasRequest {
            target: Some(Target::Remove(true)),
            ..request(&alias, force, reason)
        },
    };
    let name = format!("{}:{}", request.name, request.alias);
    let now = connect::registry(global)
        .await?
        .update_alias(connect::unary(request))
        .await
        .map_err(Failure::rpc(format!("changing {name}")))?
        .into_inner();
    match global.output {
        Output::Json => output::json(&json!({
            "alias": name,
            "digest": now.digest,
            "protected": now.protected,
        })),
        Output::Table => {
            let to = if now.digest.is_empty() {
                "nothing"
            } else {
                &now.digest
            };
            let protected = if now.protected { ", protected" } else { "" };
            output::text(&format!("{name} points to {to}{protected}"))
        }
    }
}

fn request(alias: &str, force: bool, reason: String) -> UpdateAliasRequest {
    let (name, alias) = split(alias);
    UpdateAliasRequest {
        name: name.to_owned(),
        alias: alias.to_owned(),
        force,
        reason,
        actor: actor(),
        ..Default::default()
    }
}

fn split(reference: &str) -> (&str, &str) {
    reference.split_once(':').unwrap_or((reference, "latest"))
}

async fn history(global: &Global, reference: &str) -> Result<(), Failure> {
    let (name, alias) = split(reference);
    let request = ListAliasHistoryRequest {
        name: name.to_owned(),
        alias: alias.to_owned(),
        page_size: 500,
        page_token: String::new(),
    };
    let moves = connect::registry(global)
        .await?
        .list_alias_history(connect::unary(request))
        .await
        .map_err(Failure::rpc(format!("reading the history of {reference}")))?
        .into_inner()
        .moves;
    Listing {
        header: vec!["MOVE", "TIME", "FROM", "TO", "BY", "JOB", "REASON"],
        rows: moves.iter().map(row).collect(),
        json: moves
            .iter()
            .map(|m| {
                json!({
                    "sequence": m.sequence,
                    "time": time(m.time.as_ref()),
                    "from_digest": m.from_digest,
                    "to_digest": m.to_digest,
                    "actor": m.actor,
                    "job_id": m.job_id,
                    "reason": m.reason,
                })
            })
            .collect(),
    }
    .print(global.output)
}

fn row(moved: &AliasMove) -> Vec<String> {
    vec![
        moved.sequence.to_string(),
        time(moved.time.as_ref()),
        short(&moved.from_digest),
        short(&moved.to_digest),
        moved.actor.clone(),
        moved.job_id.clone(),
        moved.reason.clone(),
    ]
}
