use std::collections::BTreeSet;

use prost_types::FileDescriptorSet;

use super::*;

/// Every method of the services that are served.
fn served() -> BTreeSet<String> {
    let sets = [
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut paths = BTreeSet::new();
    for set in sets {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    let (service, method) = (service.name(), method.name());
                    paths.insert(format!("/{}.{service}/{method}", file.package()));
                }
            }
        }
    }
    paths
}

#[test]
fn every_method_that_is_served_has_a_rule_and_no_other_has() {
    let ruled: BTreeSet<String> = METHODS.iter().map(|m| m.path.to_owned()).collect();
    assert_eq!(ruled.len(), METHODS.len(), "a method has two rules");
    assert_eq!(ruled, served());
}

#[test]
fn what_needs_a_message_is_answered_once() {
    // A stream of messages could only be looked into by the service.
    let set = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap();
    for file in &set.file {
        for service in &file.service {
            for method in service.method.iter().filter(|m| m.client_streaming()) {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let rule = &find(&path).unwrap().rule;
                assert!(!matches!(rule, Asks(_)), "{path}");
            }
        }
    }
}

#[track_caller]
fn ask(path: &str, message: &impl Message) -> Ask {
    match find(path).unwrap().rule {
        Asks(ask) => ask(message.encode_to_vec().into()).unwrap(),
        _ => panic!("{path} does not depend on its message"),
    }
}

#[test]
fn needs_depend_on_the_message() {
    const REGISTRY: &str = "/espalier.v1.RegistryService";
    let named = |verb, name: &str| vec![Need::Name(verb, name.to_owned())];
    let publish = pb::PublishCheckpointRequest {
        name: "demo".to_owned(),
        alias: "best".to_owned(),
        ..Default::default()
    };
    let forced = pb::PublishCheckpointRequest {
        force: true,
        ..publish.clone()
    };
    // Steps of a job are a worker's to commit, whoever may write the name.
    let committed = pb::PublishCheckpointRequest {
        commit: Some(pb::StepCommit {
            job_id: "j1".to_owned(),
            generation: 7,
            ..Default::default()
        }),
        ..forced.clone()
    };
    let path = format!("{REGISTRY}/PublishCheckpoint");
    assert_eq!(ask(&path, &publish).needs, named(Write, "demo"));
    assert_eq!(ask(&path, &forced).needs, named(Admin, "demo"));
    assert_eq!(
        ask(&path, &committed).needs,
        [Need::Gang("j1".to_owned(), 7)]
    );
    assert!(ask(&path, &publish).target.starts_with("demo:best@sha256:"));

    let alias = pb::UpdateAliasRequest {
        name: "demo".to_owned(),
        alias: "best".to_owned(),
        ..Default::default()
    };
    let path = format!("{REGISTRY}/UpdateAlias");
    assert_eq!(ask(&path, &alias).needs, named(Write, "demo"));
    for stronger in [
        pb::UpdateAliasRequest {
            force: true,
            ..alias.clone()
        },
        pb::UpdateAliasRequest {
            protect: Some(false),
            ..alias
        },
    ] {
        assert_eq!(ask(&path, &stronger).needs, named(Admin, "demo"));
    }

    let list = |name: &str| pb::ListCheckpointsRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    let path = format!("{REGISTRY}/ListCheckpoints");
    assert_eq!(ask(&path, &list("demo")).needs, named(Read, "demo"));
    assert_eq!(ask(&path, &list("")).needs, [Need::Some(Read)]);

    let retention = |name: &str| pb::SetRetentionRequest {
        name: name.to_owned(),
        retention: None,
    };
    let path = format!("{REGISTRY}/SetRetention");
    assert_eq!(ask(&path, &retention("demo")).needs, named(Admin, "demo"));
    assert_eq!(ask(&path, &retention("")).needs, [Need::All(Admin)]);
}

#[test]
fn a_message_of_another_type_is_refused() {
    for method in METHODS {
        if let Asks(ask) = method.rule
            && !std::ptr::fn_addr_eq(ask, everything as fn(Bytes) -> Result<Ask, Refusal>)
        {
            let refused = ask(Bytes::from_static(b"\xff\xff\xff")).unwrap_err();
            assert!(matches!(refused, Refusal::Unreadable(_)), "{}", method.path);
        }
    }
}
