//! `espalier token ...`

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use espalier_auth::{Scope, Token, check_name};
use espalier_proto::v1::{
    CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Token as Known,
};
use serde_json::{Value, json};

use crate::args::{CreateArgs, Global, Output, TokenCommand};
use crate::exit::Failure;
use crate::output::{Listing, time};
use crate::{connect, output};

/// A hundred years: what lasts longer is better without an end.
const LONGEST: Duration = Duration::from_secs(36_500 * 24 * 3600);

pub(crate) async fn run(global: &Global, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create(args) => create(global, args).await,
        TokenCommand::List => list(global).await,
        TokenCommand::Revoke { name } => revoke(global, name).await,
    }
}

/// The token is made here: the coordinator is told its hash.
async fn create(global: &Global, args: CreateArgs) -> Result<(), Failure> {
    check_name(&args.name).map_err(|e| Failure::Usage(format!("--name: {e}")))?;
    for scope in &args.scopes {
        scope
            .parse::<Scope>()
            .map_err(|e| Failure::Usage(format!("--scope: {e}")))?;
    }
    let token = Token::generate(&args.name).context("reading random numbers")?;
    let request = CreateTokenRequest {
        name: args.name.clone(),
        sha256: token.hash().bytes().to_vec().into(),
        scopes: args.scopes,
        expire_time: args
            .expires
            .map(|after| end(after, SystemTime::now()))
            .transpose()?,
    };
    let known = connect::tokens(global)
        .await?
        .create_token(connect::unary(request))
        .await
        .map_err(Failure::rpc(format!("making token {}", args.name)))?
        .into_inner()
        .token
        .context("the coordinator's answer holds no token")?;
    match global.output {
        Output::Json => {
            let mut shown = value(&known);
            shown["token"] = token.reveal().into();
            output::json(&shown)
        }
        Output::Table => {
            eprintln!("keep it: it cannot be shown again");
            output::text(&token.reveal())
        }
    }
}

fn end(after: Duration, now: SystemTime) -> Result<prost_types::Timestamp, Failure> {
    let end = now.checked_add(after).filter(|_| after <= LONGEST);
    let end = end.ok_or_else(|| Failure::Usage("--expires: at most 36500d".to_owned()))?;
    Ok(end.into())
}

async fn list(global: &Global) -> Result<(), Failure> {
    let tokens = connect::tokens(global)
        .await?
        .list_tokens(connect::unary(ListTokensRequest {}))
        .await
        .map_err(Failure::rpc("listing the tokens"))?
        .into_inner()
        .tokens;
    Listing {
        header: vec!["NAME", "SCOPES", "CREATED", "EXPIRES", "BY"],
        rows: tokens.iter().map(row).collect(),
        json: tokens.iter().map(value).collect(),
    }
    .print(global.output)
}

fn row(token: &Known) -> Vec<String> {
    let expires = token.expire_time.as_ref();
    vec![
        token.name.clone(),
        token.scopes.join(" "),
        time(token.create_time.as_ref()),
        expires.map_or_else(|| "never".to_owned(), |end| time(Some(end))),
        token.creator.clone(),
    ]
}

fn value(token: &Known) -> Value {
    json!({
        "name": token.name,
        "scopes": token.scopes,
        "create_time": time(token.create_time.as_ref()),
        "expire_time": token.expire_time.as_ref().map(|end| time(Some(end))),
        "creator": token.creator,
    })
}

async fn revoke(global: &Global, name: String) -> Result<(), Failure> {
    let request = RevokeTokenRequest { name: name.clone() };
    connect::tokens(global)
        .await?
        .revoke_token(connect::unary(request))
        .await
        .map_err(Failure::rpc(format!("revoking token {name}")))?;
    match global.output {
        Output::Json => output::json(&json!({ "revoked": name })),
        Output::Table => output::text(&format!("revoked {name}")),
    }
}
