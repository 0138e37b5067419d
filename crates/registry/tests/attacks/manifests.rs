//! Manifests that are tampered with, made as text: the library makes none of them.

use espalier_registry::{ChunkId, Digest};

/// Content of the only file of the manifests below.
pub(crate) const DATA: &[u8] = b"data";

/// Paths that no file of a checkpoint has.
pub(crate) const PATHS: [&str; 24] = [
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../up",
    "a/../../up",
    "a/./b",
    "a//b",
    "a/",
    "//a",
    "..\\up",
    "a\\b",
    "C:\\a",
    "c:a",
    "a:stream",
    "a\0b",
    "a\nb",
    "a\u{1b}[2Jb",
    "gpj.\u{202e}exe",
    "a\u{200b}b",
    "nai\u{308}ve",
    "..\u{ff0f}up",
    "a\u{2215}b",
];

/// A manifest of these `files`, canonical but for them.
pub(crate) fn of_files(files: &str) -> String {
    format!(
        concat!(
            r#"{{"espalier":2,"files":[{files}],"kind":"model","lineage":{{"generation":null,"job":null,"#,
            r#""parent":null,"seed":null,"step":null,"teacher":null}},"name":"demo","report":null}}"#
        ),
        files = files
    )
}

/// A file of [`DATA`].
pub(crate) fn file(path: &str) -> String {
    of_chunks(
        path,
        &chunk(&Digest::of(DATA).to_string(), DATA.len() as u64),
        DATA.len() as u64,
    )
}

/// A file of these `chunks` that says it has `size` bytes.
pub(crate) fn of_chunks(path: &str, chunks: &str, size: u64) -> String {
    let path = serde_json::to_string(path).expect("json");
    format!(
        r#"{{"chunks":[{chunks}],"media_type":"application/octet-stream","path":{path},"size":{size}}}"#
    )
}

/// A chunk.
pub(crate) fn chunk(digest: &str, size: u64) -> String {
    format!(r#"{{"digest":"{digest}","size":{size}}}"#)
}

/// Names that no checkpoint and no alias has.
pub(crate) fn names() -> Vec<String> {
    let plain = [
        "..",
        ".x",
        "-x",
        "_x",
        "A",
        "a/b",
        "a\\b",
        "a:b",
        "a@b",
        "a b",
        "a*",
        "a%2e",
        "a\n",
        "\u{1b}[2J",
        "\u{430}",
        "\u{e9}",
        "e\u{301}",
        "a\u{200b}",
        "\u{ff41}",
        "\u{202e}a",
    ];
    let long = "a".repeat(64);
    plain
        .iter()
        .map(|name| (*name).to_owned())
        .chain([long])
        .collect()
}

/// Texts that are no digest of a chunk that is there, though each is nearly one.
pub(crate) fn digests(of: &[u8]) -> Vec<String> {
    let hex = Digest::of(of).hex();
    vec![
        hex.clone(),
        format!("sha256:{}", hex.to_uppercase()),
        format!("SHA256:{hex}"),
        format!("sha256:{}", &hex[..63]),
        format!("sha256:{}", &hex[..8]),
        format!("sha256:{hex}0"),
        format!("sha256:{hex}\n"),
        format!(" sha256:{hex}"),
        format!("sha256:sha256:{}", &hex[7..]),
        format!("sha512:{hex}"),
        format!("sha256:../{}", &hex[3..]),
        format!("sha256:{}\u{ff11}", &hex[..63]),
        "sha256:".to_owned(),
    ]
}

/// Of these bytes, as the interface has it.
pub(crate) fn id(digest: String, of: &[u8]) -> espalier_proto::v1::ChunkId {
    let ChunkId { size, .. } = ChunkId::of(of);
    espalier_proto::v1::ChunkId { digest, size }
}
