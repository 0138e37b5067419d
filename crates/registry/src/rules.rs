//! What names, aliases and paths may look like.

use std::collections::{BTreeMap, BTreeSet};

/// Longest name and alias, in bytes.
const MAX_NAME: usize = 63;

/// Longest id of a request, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// Longest path of a file in a checkpoint, in bytes.
const MAX_PATH: usize = 255;

/// Checks the name of a checkpoint, or an alias.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let starts_well = bytes
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let goes_on_well = bytes.all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
    if starts_well && goes_on_well && name.len() <= MAX_NAME {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not 1 to {MAX_NAME} of a-z, 0-9, `-`, `_` and `.`, starting with a letter or digit"
    ))
}

/// Checks the id of a request, which becomes part of a key.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_request_id(id: &str) -> Result<(), String> {
    let fits = (1..=MAX_REQUEST_ID).contains(&id.len());
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if fits && id.bytes().all(plain) {
        return Ok(());
    }
    Err(format!(
        "{id:?} is not 1 to {MAX_REQUEST_ID} letters, digits, `-`, `_` and `.`, such as a uuid"
    ))
}

/// Checks the path of a file in a checkpoint: whoever pulls it writes there.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    let problem = if path.is_empty() {
        "is empty"
    } else if path.len() > MAX_PATH {
        "has more than 255 bytes"
    } else if path.starts_with('/') {
        "is absolute"
    } else if path.contains('\\') {
        "has a backslash"
    } else if path.contains(':') {
        "has a colon"
    } else if !path.chars().all(is_plain) {
        "has a character that is no letter, digit, space or ASCII punctuation"
    } else if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        "has an empty part, `.` or `..`"
    } else {
        return Ok(());
    };
    Err(format!("path {path:?} {problem}"))
}

/// Letters and digits of every script, the space, and the punctuation of ASCII. Not: controls, marks that
/// combine, joiners, overrides of the direction, spaces that look like others. With these two names
/// look the same, or one name looks like another.
fn is_plain(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || (!c.is_ascii() && c.is_alphanumeric())
}

/// Checks a text that people are shown: it has no characters that change how the rest is shown.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_shown(text: &str, most: usize) -> Result<(), String> {
    if text.len() > most {
        return Err(format!("more than {most} bytes"));
    }
    let disturbing = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    match text.chars().find(|c| disturbing(*c)) {
        Some(c) => Err(format!(
            "has the character {c:?}, which changes how text is shown"
        )),
        None => Ok(()),
    }
}

/// Checks that no path lies below another, which would be both a file and a folder, and that no two
/// differ only in their case: on some disks they are one file.
///
/// # Errors
/// The two paths.
pub(crate) fn check_folders(paths: &BTreeSet<&str>) -> Result<(), String> {
    let mut folded: BTreeMap<String, &str> = BTreeMap::new();
    for path in paths {
        if let Some(other) = folded.insert(path.to_lowercase(), path) {
            return Err(format!(
                "paths {other:?} and {path:?} differ only in their case"
            ));
        }
    }
    for path in paths {
        for (end, _) in path.match_indices('/') {
            if paths.contains(&path[..end]) {
                return Err(format!(
                    "path {:?} is both a file and the folder of {path:?}",
                    &path[..end]
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_stay_inside_are_taken() {
        for path in [
            "a",
            "model.safetensors",
            "a/b/c.json",
            "..a",
            "a..",
            ".x",
            "sp ace",
            "na\u{ef}ve.txt",
            "\u{6a21}\u{578b}.json",
        ] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn paths_that_could_leave_are_refused() {
        let long = "a".repeat(256);
        for path in [
            "",
            "/",
            "/etc/passwd",
            "..",
            ".",
            "../a",
            "a/..",
            "a/../b",
            "a/./b",
            "./a",
            "a//b",
            "a/",
            "a\\b",
            "..\\a",
            "C:\\a",
            "c:a",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "nai\u{308}ve.txt",
            "gpj.\u{202e}exe",
            "a\u{200b}b",
            "a\u{a0}b",
            "..\u{2215}a",
            "a\u{ff0f}b",
            &long,
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn names_follow_the_job_files_rule() {
        for name in ["a", "0", "fashion-mnist", "job-7", "a.b_c"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        let long = "a".repeat(64);
        for name in [
            "", "-a", ".a", "A", "a/b", "a:b", "a@b", "a b", "\u{e9}", &long,
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn request_ids_fit_in_a_key() {
        assert_eq!(check_request_id("7f1c-A_b.9"), Ok(()));
        let long = "a".repeat(129);
        for id in ["", "a/b", "a b", "\n", "\u{e9}", &long] {
            assert!(check_request_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn a_path_is_a_file_or_a_folder() {
        assert!(check_folders(&BTreeSet::from(["a", "a.b", "b/c"])).is_ok());
        assert!(check_folders(&BTreeSet::from(["a", "a/b/c"])).is_err());
        assert!(check_folders(&BTreeSet::from(["A/b", "a/B"])).is_err());
    }

    #[test]
    fn texts_do_not_change_how_others_are_shown() {
        for text in [
            "",
            "better on the new camera",
            "na\u{ef}ve, \u{6a21}\u{578b}",
        ] {
            assert_eq!(check_shown(text, 64), Ok(()), "{text}");
        }
        let long = "x".repeat(65);
        for text in [
            "a\nb",
            "\u{1b}[2J",
            "a\u{202e}b",
            "a\u{2066}b",
            "\u{feff}",
            &long,
        ] {
            assert!(check_shown(text, 64).is_err(), "{text:?}");
        }
    }
}
