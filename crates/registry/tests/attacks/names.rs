//! Names and texts that are more than what they look like.

use std::collections::HashMap;

use espalier_proto::v1::update_alias_request::Target;
use espalier_proto::v1::{
    GetCheckpointRequest, ListAliasHistoryRequest, ListCheckpointsRequest,
    PublishCheckpointRequest, SetRetentionRequest, UpdateAliasRequest, UpdateCheckpointRequest,
};
use espalier_registry::Digest;
use tonic::Code;

use crate::common::{Registry, upload};
use crate::manifests::{DATA, file, names, of_files};

fn publish(request_id: &str) -> PublishCheckpointRequest {
    PublishCheckpointRequest {
        request_id: request_id.to_owned(),
        name: "demo".to_owned(),
        manifest: of_files(&file("weights")).into(),
        ..PublishCheckpointRequest::default()
    }
}

#[tokio::test]
async fn odd_names_are_refused_wherever_they_are_given() {
    let registry = Registry::start().await;
    upload(&registry, DATA).await;
    let mut rpc = registry.rpc().await;
    rpc.publish_checkpoint(publish("good"))
        .await
        .expect("publishes");
    let digest = Digest::of(of_files(&file("weights")).as_bytes()).to_string();
    for name in names() {
        let aliased = PublishCheckpointRequest {
            alias: name.clone(),
            ..publish("alias")
        };
        let named = PublishCheckpointRequest {
            name: name.clone(),
            manifest: String::from_utf8(publish("").manifest.into())
                .unwrap()
                .replace("\"demo\"", &serde_json::to_string(&name).unwrap())
                .into(),
            ..publish("name")
        };
        let alias = |name: &str, alias: &str| UpdateAliasRequest {
            name: name.to_owned(),
            alias: alias.to_owned(),
            target: Some(Target::Digest(digest.clone())),
            ..UpdateAliasRequest::default()
        };
        let history = |name: &str, alias: &str| ListAliasHistoryRequest {
            name: name.to_owned(),
            alias: alias.to_owned(),
            ..ListAliasHistoryRequest::default()
        };
        let label = UpdateCheckpointRequest {
            reference: digest.clone(),
            set_labels: HashMap::from([(name.clone(), String::new())]),
            ..UpdateCheckpointRequest::default()
        };
        let list = ListCheckpointsRequest {
            name: name.clone(),
            ..ListCheckpointsRequest::default()
        };
        let retention = SetRetentionRequest {
            name: name.clone(),
            retention: None,
        };
        let get = GetCheckpointRequest {
            reference: format!("{name}:{name}"),
            lease: String::new(),
        };
        let request_id = PublishCheckpointRequest {
            request_id: format!("{name}/"),
            ..publish("")
        };
        let answers = [
            rpc.publish_checkpoint(aliased).await.map(drop),
            rpc.publish_checkpoint(named).await.map(drop),
            rpc.publish_checkpoint(request_id).await.map(drop),
            rpc.update_alias(alias("demo", &name)).await.map(drop),
            rpc.update_alias(alias(&name, "best")).await.map(drop),
            rpc.list_alias_history(history("demo", &name))
                .await
                .map(drop),
            rpc.list_alias_history(history(&name, "best"))
                .await
                .map(drop),
            rpc.update_checkpoint(label).await.map(drop),
            rpc.list_checkpoints(list).await.map(drop),
            rpc.set_retention(retention).await.map(drop),
            rpc.get_checkpoint(get).await.map(drop),
        ];
        for (i, answer) in answers.into_iter().enumerate() {
            let status = answer.expect_err(&name);
            assert_eq!(
                status.code(),
                Code::InvalidArgument,
                "{i} {name:?}: {status}"
            );
        }
    }
}

#[tokio::test]
async fn texts_that_disturb_a_terminal_are_refused() {
    let registry = Registry::start().await;
    upload(&registry, DATA).await;
    let mut rpc = registry.rpc().await;
    rpc.publish_checkpoint(publish("good"))
        .await
        .expect("publishes");
    let digest = Digest::of(of_files(&file("weights")).as_bytes()).to_string();
    for text in ["\u{1b}[2J", "a\nb", "a\u{202e}b", "a\u{200f}b", "\u{7}"] {
        let alias = |reason: &str, actor: &str| UpdateAliasRequest {
            name: "demo".to_owned(),
            alias: "best".to_owned(),
            target: Some(Target::Digest(digest.clone())),
            reason: reason.to_owned(),
            actor: actor.to_owned(),
            ..UpdateAliasRequest::default()
        };
        let label = UpdateCheckpointRequest {
            reference: digest.clone(),
            set_labels: HashMap::from([("team".to_owned(), text.to_owned())]),
            ..UpdateCheckpointRequest::default()
        };
        let answers = [
            rpc.update_alias(alias(text, "")).await.map(drop),
            rpc.update_alias(alias("", text)).await.map(drop),
            rpc.update_checkpoint(label).await.map(drop),
        ];
        for answer in answers {
            let status = answer.expect_err(text);
            assert_eq!(status.code(), Code::InvalidArgument, "{text:?}: {status}");
        }
    }
}
