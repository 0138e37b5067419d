//! What names, aliases and paths may look like.

use std::collections::BTreeSet;

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
    } else if path.chars().any(char::is_control) {
        "has a control character"
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

/// Checks that no path lies below another, which would be both a file and a folder.
///
/// # Errors
/// The two paths.
pub(crate) fn check_folders(paths: &BTreeSet<&str>) -> Result<(), String> {
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
    }
}
