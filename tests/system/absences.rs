//! What is not there is as much the design as what is: ARCHITECTURE.md, "Absences".

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use espalier_tests::repository;
use serde_json::Value;

/// What `cargo metadata` says of the workspace as it is built here: the crates of other platforms need
/// not be there.
fn metadata() -> Value {
    let platform = stdout(Command::new("rustc").args(["--print", "host-tuple"]));
    let arguments = ["metadata", "--format-version", "1", "--locked", "--offline"];
    let metadata = stdout(
        Command::new(env!("CARGO"))
            .args(arguments)
            .args(["--filter-platform", platform.trim()])
            .current_dir(repository()),
    );
    serde_json::from_str(&metadata).unwrap()
}

#[track_caller]
fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Names of the packages that each package needs to run, directly and not.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn read() -> Self {
        let metadata = metadata();
        let names: BTreeMap<&str, &str> = array(&metadata["packages"])
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let direct = array(&metadata["resolve"]["nodes"]).map(|node| {
            let needs = array(&node["deps"])
                .filter(|dep| array(&dep["dep_kinds"]).any(|kind| kind["kind"].is_null()))
                .map(|dep| names[text(&dep["pkg"])].to_owned())
                .collect();
            (names[text(&node["id"])].to_owned(), needs)
        });
        Self(direct.collect())
    }

    fn reach(&self, from: &str) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(name) = open.pop() {
            let needs = self
                .0
                .get(&name)
                .unwrap_or_else(|| panic!("no package {name}"));
            open.extend(
                needs
                    .iter()
                    .filter(|need| reached.insert((*need).clone()))
                    .cloned(),
            );
        }
        reached
    }

    #[track_caller]
    fn assert_absent(&self, from: &str, absent: &[&str]) {
        let reached = self.reach(from);
        for name in absent {
            assert!(!reached.contains(*name), "{from} reaches {name}");
        }
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn packages_reach_only_downward() {
    let graph = Graph::read();
    assert!(
        graph.reach("espalier-worker").contains("tch"),
        "the graph is not read right"
    );
    let tensors = [
        "tch",
        "torch-sys",
        "cudarc",
        "espalier-vit",
        "espalier-collective",
    ];
    for package in [
        "espalier-proto",
        "espalier-auth",
        "espalier-job",
        "espalier-config",
        "espalier-layout",
        "espalier-onnx",
        "espalier-random",
        "espalier-store",
        "espalier-registry",
        "espalier-coordinator",
        "espalier-cli",
        "espalier-data",
    ] {
        graph.assert_absent(package, &tensors);
    }
    graph.assert_absent(
        "espalier-vit",
        &["espalier-collective", "espalier-data", "tonic", "tokio"],
    );
    graph.assert_absent("espalier-collective", &["espalier-vit", "tonic", "tokio"]);
    graph.assert_absent("espalier-job", &["tokio", "tonic"]);
    graph.assert_absent("espalier-data", &["tokio", "tonic"]);
}

#[test]
fn all_packages_use_one_version_of_what_they_name() {
    let metadata = metadata();
    let members: BTreeSet<&str> = array(&metadata["workspace_members"]).map(text).collect();
    let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let nodes = array(&metadata["resolve"]["nodes"]);
    for node in nodes.filter(|node| members.contains(text(&node["id"]))) {
        for dep in array(&node["deps"]) {
            let name = text(&dep["name"]);
            used.entry(name).or_default().insert(text(&dep["pkg"]));
        }
    }
    assert!(used.contains_key("tonic"), "the graph is not read right");
    for (name, versions) in used {
        assert_eq!(versions.len(), 1, "{name}: {versions:?}");
    }
}

#[test]
fn the_trainer_knows_no_rpc_and_no_runtime() {
    for file in sources(&repository().join("worker/src/rank")) {
        let code = fs::read_to_string(&file).unwrap();
        for word in ["tonic::", "tokio::", "espalier_proto", "espalier_registry"] {
            assert!(!code.contains(word), "{} names {word}", file.display());
        }
    }
}

#[test]
fn only_the_collectives_are_unsafe() {
    let root = repository();
    let mut roots = 0;
    for file in sources(&root) {
        let relative = file.strip_prefix(&root).unwrap();
        if relative.starts_with("crates/collective") {
            continue;
        }
        let code = fs::read_to_string(&file).unwrap();
        let is_root = file.ends_with("src/lib.rs") || file.ends_with("src/main.rs");
        if is_root {
            roots += 1;
            assert!(
                code.contains("#![forbid(unsafe_code)]"),
                "{} does not forbid unsafe code",
                relative.display()
            );
        }
        // The word's only other places are this file and the lint that forbids it.
        if !relative.ends_with("system/absences.rs") {
            let lines = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            for line in lines {
                let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
                assert!(
                    !words.any(|word| word == "unsafe"),
                    "{}: {line}",
                    relative.display()
                );
            }
        }
    }
    assert!(roots >= 13, "only {roots} crate roots were found");
}

#[test]
fn decisions_read_no_clock_and_no_global_generator() {
    let root = repository();
    for decision in [
        "coordinator/src/auth/rules.rs",
        "coordinator/src/scheduler/mod.rs",
        "coordinator/src/scheduler/preempt.rs",
        "coordinator/src/scheduler/room.rs",
        "coordinator/src/scheduler/search.rs",
        "coordinator/src/scheduler/usage.rs",
        "coordinator/src/scheduler/view.rs",
        "coordinator/src/scheduler/words.rs",
        "coordinator/src/membership.rs",
        "coordinator/src/membership/losses.rs",
        "coordinator/src/membership/next.rs",
        "coordinator/src/membership/partings.rs",
        "coordinator/src/recruiting.rs",
        "coordinator/src/stalls.rs",
        "coordinator/src/standing.rs",
        "crates/vit/src/grouping.rs",
        "crates/vit/src/cost.rs",
        "crates/vit/src/choice.rs",
        "crates/vit/src/choice/joint.rs",
        "worker/src/rank/calibrate.rs",
        "worker/src/rank/pattern.rs",
        "worker/src/rank/plan.rs",
        "worker/src/agent/state.rs",
    ] {
        let code = fs::read_to_string(root.join(decision)).unwrap();
        for word in ["Instant::now", "SystemTime::now", "rand::rng", "thread_rng"] {
            assert!(!code.contains(word), "{decision} calls {word}");
        }
    }
}

/// All Rust files below a folder, without what was built.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files.extend(sources(&path));
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files
}
