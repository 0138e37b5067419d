//! Command lines that make no sense: each has its exit code, and the message names what is wrong.

use std::process::Command;

use espalier_tests::{Cluster, Ran, program};

/// Arguments (`{dir}` is an empty folder, `{file}` a file), the exit code, and what is named.
const CASES: &[(&[&str], i32, &str)] = &[
    (&["jobs"], 2, "jobs"),
    (&["job", "submit"], 2, "--file"),
    (&["job", "submit", "-f", "{dir}/no.toml"], 2, "no.toml"),
    (&["job", "submit", "-f", "{dir}"], 2, "{dir}"),
    (&["job", "list", "--limit", "many"], 2, "--limit"),
    (&["job", "describe", "j99999999"], 1, "j99999999"),
    (&["job", "cancel", "j99999999"], 1, "j99999999"),
    (&["job", "logs", "j99999999"], 1, "j99999999"),
    (&["job", "wait", "j99999999"], 1, "j99999999"),
    (
        &["job", "wait", "j99999999", "--timeout", "soon"],
        2,
        "--timeout",
    ),
    (&["job", "follow", "j99999999"], 1, "j99999999"),
    (&["checkpoint", "describe", "nobody:latest"], 1, "nobody"),
    (&["checkpoint", "describe", "a:b:c"], 2, "a:b:c"),
    (&["checkpoint", "alias", "history", "no name"], 2, "no name"),
    (
        &["checkpoint", "alias", "rollback", "nobody:latest"],
        1,
        "nobody:latest",
    ),
    (
        &["checkpoint", "alias", "set", "nobody:latest"],
        2,
        "required",
    ),
    (
        &["checkpoint", "list", "--where", "accuracy >"],
        2,
        "character 11",
    ),
    (&["checkpoint", "push", "{dir}", "Bad Name"], 1, "files"),
    (&["checkpoint", "rm", "nobody:latest"], 2, "alias"),
    (
        &["registry", "retention", "--best", "accuracy"],
        2,
        "--best",
    ),
    (
        &["registry", "fsck", "--repair", "{dir}/none"],
        2,
        "--repair",
    ),
    (&["checkpoint", "list", "A B"], 2, "name"),
    (
        &["checkpoint", "pull", "nobody:latest", "{dir}/new"],
        1,
        "nobody",
    ),
    (
        &["checkpoint", "pull", "nobody@md5:1", "{dir}/new"],
        2,
        "md5:1",
    ),
    (&["eval", "nobody:latest"], 1, "nobody"),
    (&["eval", "{dir}"], 1, "config.json"),
    (&["eval", "{dir}", "--batch", "0"], 2, "--batch"),
    (&["eval", "{dir}", "--mode", "both"], 2, "--mode"),
    (&["worker", "list", "-o", "xml"], 2, "--output"),
];

#[test]
fn each_wrong_command_has_its_exit_code() {
    let cluster = Cluster::start(0);
    let dir = cluster.dir().join("empty");
    std::fs::create_dir(&dir).unwrap();
    let dir = dir.display().to_string();
    let mut wrong = Vec::new();
    for (args, code, named) in CASES {
        let args: Vec<String> = args.iter().map(|arg| arg.replace("{dir}", &dir)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = cluster.cli(&args);
        if ran.code != *code || !ran.stderr.contains(&named.replace("{dir}", &dir)) {
            wrong.push(format!("{args:?}: not {code} with {named:?}: {ran:?}"));
        }
        assert!(ran.stdout.is_empty(), "{args:?}: {}", ran.stdout);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        std::fs::read_dir(&dir).unwrap().next().is_none(),
        "a refused command left something"
    );
}

#[test]
fn a_coordinator_that_is_not_there_is_named() {
    // Port 1 needs privileges to listen on and is nobody's.
    let endpoint = "http://127.0.0.1:1";
    let ran = Ran::of(
        Command::new(program("espalier"))
            .args(["worker", "list"])
            .env("ESPALIER_ENDPOINT", endpoint),
    );
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains(endpoint), "{}", ran.stderr);
}
