use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fuzzing;

fn file(path: &str) -> FileEntry {
    FileEntry {
        path: path.to_owned(),
        size: 3,
        media_type: "application/json".to_owned(),
        chunks: vec![ChunkId::of(b"abc")],
    }
}

fn manifest() -> Manifest {
    Manifest::new(
        Kind::Model,
        "demo",
        vec![file("b.json"), file("a/b.json")],
        Lineage {
            job: Some("j1".to_owned()),
            step: Some(7),
            ..Lineage::default()
        },
        Some(json!({"z": 1, "a": [0.1, 1e300, -0.0], "m": {"y": null, "b": true}})),
    )
    .expect("valid")
}

#[test]
fn the_bytes_are_fixed() {
    let digest = Digest::of(b"abc");
    let files = ["a/b.json", "b.json"].map(|path| {
        format!(
            r#"{{"chunks":[{{"digest":"{digest}","size":3}}],"media_type":"application/json","path":"{path}","size":3}}"#
        )
    });
    let expected = format!(
        concat!(
            r#"{{"espalier":2,"files":[{}],"kind":"model","#,
            r#""lineage":{{"generation":null,"job":"j1","parent":null,"seed":null,"step":7,"teacher":null}},"name":"demo","#,
            r#""report":{{"a":[0.1,1e+300,-0.0],"m":{{"b":true,"y":null}},"z":1}}}}"#
        ),
        files.join(",")
    );
    let bytes = manifest().to_bytes().expect("json");
    assert_eq!(String::from_utf8(bytes).expect("utf-8"), expected);
}

#[test]
fn only_canonical_bytes_are_taken() {
    let bytes = String::from_utf8(manifest().to_bytes().expect("json")).expect("utf-8");
    assert_eq!(
        Manifest::parse(bytes.as_bytes()).expect("valid"),
        manifest()
    );
    for (from, to) in [
        (r#""espalier":2"#, r#""espalier": 2"#),
        (r#""espalier":2,"#, r#""espalier":2,"espalier":2,"#),
        ("0.1", "0.10"),
        ("1e+300", "1e300"),
        (r#""demo""#, r#""\u0064emo""#),
        (r#""name":"demo","#, ""),
        (r#""z":1"#, r#""z":1,"a":2"#),
    ] {
        let other = bytes.replacen(from, to, 1);
        assert_ne!(other, bytes);
        assert!(Manifest::parse(other.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn an_empty_report_is_none() {
    let files = vec![file("a")];
    let lineage = Lineage::default();
    let manifest = Manifest::new(Kind::Model, "x", files, lineage, Some(Value::Null));
    let manifest = manifest.expect("valid");
    assert_eq!(manifest.report, None);
    let bytes = manifest.to_bytes().expect("json");
    assert_eq!(Manifest::parse(&bytes).expect("canonical"), manifest);
}

#[test]
fn problems_name_the_field() {
    let canonical = |edit: &dyn Fn(&mut Value)| {
        let mut value = serde_json::to_value(manifest()).expect("json");
        edit(&mut value);
        sort(&mut value);
        let bytes = serde_json::to_vec(&value).expect("json");
        Manifest::parse(&bytes).expect_err("refused").to_string()
    };
    type Edit = fn(&mut Value);
    let table: [(Edit, &str); 15] = [
        (|v| v["espalier"] = json!(1), "version 1"),
        (|v| v["extra"] = json!(2), "unknown field `extra`"),
        (
            |v| v["files"][0]["extra"] = json!(2),
            "unknown field `extra`",
        ),
        (|v| v["kind"] = json!("other"), "unknown variant `other`"),
        (|v| v["name"] = json!("Demo"), "name: \"Demo\""),
        (|v| v["files"] = json!([]), "files: a checkpoint has 1 to"),
        (
            |v| v["files"][1]["path"] = json!("../b"),
            "files[1].path: path \"../b\"",
        ),
        (
            |v| v["files"][1]["path"] = json!("a/b.json"),
            "files[1].path: \"a/b.json\" is not after",
        ),
        (
            |v| v["files"][0]["path"] = json!("c"),
            "files[1].path: \"b.json\" is not after \"c\"",
        ),
        (
            |v| v["files"][1]["path"] = json!("a/b.json/c"),
            "is both a file and the folder",
        ),
        (
            |v| v["files"][0]["size"] = json!(-1),
            "invalid value: integer `-1`",
        ),
        (
            |v| v["files"][0]["chunks"][0]["digest"] = json!("sha256:0"),
            "`sha256:0` is not a digest",
        ),
        (
            |v| v["files"][0]["size"] = json!(4),
            "files[0].chunks: they have 3 bytes together, the file 4",
        ),
        (
            |v| v["files"][0]["chunks"][0]["size"] = json!(u64::MAX),
            "files[0].chunks: [0] has 18446744073709551615 bytes",
        ),
        (
            |v| v["files"][0]["chunks"][0]["size"] = json!(0),
            "files[0].chunks: [0] has 0 bytes",
        ),
    ];
    for (edit, expected) in table {
        let error = canonical(&edit);
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}

fn report() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        proptest::num::f64::NORMAL.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back_and_writes_the_same(
        names in prop::collection::btree_set("[a-z]{1,8}(/[a-z]{1,8}\\.json)?", 1..6),
        report in prop::option::of(report()),
        seed in prop::option::of(any::<u64>()),
    ) {
        let files: Vec<FileEntry> = names.iter().map(|n| file(n)).collect();
        let lineage = Lineage { seed, parent: Some(Digest::of(b"p")), ..Lineage::default() };
        // A name may be drawn both as a file and as a folder: then it is refused.
        if let Ok(manifest) = Manifest::new(Kind::Training, "x", files, lineage, report) {
            let bytes = manifest.to_bytes().expect("json");
            let read = Manifest::parse(&bytes).expect("canonical");
            prop_assert_eq!(read.to_bytes().expect("json"), bytes);
            prop_assert_eq!(read, manifest);
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::parse(&bytes).is_err());
    }

    /// Whatever happens to one place of a manifest, it is refused or is the one that its bytes say.
    #[test]
    fn a_damaged_manifest_is_refused_or_means_itself(
        place in 0..700_usize, cut in 0..12_usize, put in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let mut bytes = manifest().to_bytes().expect("json");
        let place = place.min(bytes.len());
        let end = (place + cut).min(bytes.len());
        bytes.splice(place..end, put);
        fuzzing::manifest(&bytes);
    }
}
