//! The files that a path of the job names: one file, all of a folder, or those of a pattern.

use std::fs;
use std::path::{Path, PathBuf};

use crate::DataError;

/// Most files that one pattern may name.
const MOST: usize = 100_000;

/// The file `path`, the files of folder `path` that end in `.extension`, sorted, or those that `path`
/// names as a pattern: `{000..146}` counts up, `{a,b}` chooses, `*` and `?` match names.
pub(super) fn files(path: &Path, extension: &str) -> Result<Vec<PathBuf>, DataError> {
    if path.is_dir() {
        return of_folder(path, extension);
    }
    let pattern = path.to_str().unwrap_or_default();
    if path.exists() || !pattern.contains(['{', '*', '?', '[']) {
        // That there is no such file is found when it is opened.
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for one in expanded(pattern).map_err(|reason| DataError::content(path, reason))? {
        if !one.contains(['*', '?', '[']) {
            files.push(PathBuf::from(one));
            continue;
        }
        let found =
            glob::glob(&one).map_err(|error| DataError::content(path, error.to_string()))?;
        for file in found.take(MOST + 1) {
            files.push(file.map_err(|error| {
                let path = error.path().to_owned();
                DataError::read(path)(error.into())
            })?);
        }
    }
    match files.len() {
        0 => Err(DataError::content(path, "no file matches")),
        1..=MOST => Ok(files),
        _ => Err(DataError::content(
            path,
            format!("it names more than {MOST} files"),
        )),
    }
}

fn of_folder(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, DataError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(DataError::read(folder))? {
        let path = entry.map_err(DataError::read(folder))?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort_unstable();
    match files.is_empty() {
        true => Err(DataError::content(
            folder,
            format!("holds no .{extension} files"),
        )),
        false => Ok(files),
    }
}

/// `pattern` with every choice of its braces, the last ones varying first.
fn expanded(pattern: &str) -> Result<Vec<String>, String> {
    let inner = pattern.split_once('{').and_then(|(before, rest)| {
        let (inside, after) = rest.split_once('}')?;
        Some((before, inside, after))
    });
    let Some((before, inside, after)) = inner else {
        return Ok(vec![pattern.to_owned()]);
    };
    let (choices, rest) = (choices(inside)?, expanded(after)?);
    if choices.len().saturating_mul(rest.len()) > MOST {
        return Err(format!("it names more than {MOST} files"));
    }
    let with = |choice: &String| -> Vec<String> {
        rest.iter()
            .map(|rest| format!("{before}{choice}{rest}"))
            .collect()
    };
    Ok(choices.iter().flat_map(with).collect())
}

/// `a..b`, counted up with the digits of `a`, or a list.
fn choices(inside: &str) -> Result<Vec<String>, String> {
    let Some((first, last)) = inside.split_once("..") else {
        return Ok(inside.split(',').map(str::to_owned).collect());
    };
    let number = |text: &str| -> Result<usize, String> {
        text.parse()
            .map_err(|_| format!("{{{inside}}}: `{text}` is not a number"))
    };
    let (from, to) = (number(first)?, number(last)?);
    if to < from || to - from >= MOST {
        return Err(format!(
            "{{{inside}}}: 1 to {MOST} numbers, counted up, are needed"
        ));
    }
    let digits = if first.starts_with('0') {
        first.len()
    } else {
        1
    };
    Ok((from..=to)
        .map(|number| format!("{number:0digits$}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn braces_count_and_choose() {
        assert_eq!(expanded("a/b.tar").unwrap(), ["a/b.tar"]);
        assert_eq!(
            expanded("t-{008..010}.tar").unwrap(),
            ["t-008.tar", "t-009.tar", "t-010.tar"]
        );
        assert_eq!(
            expanded("{9..10}{x,y}").unwrap(),
            ["9x", "9y", "10x", "10y"]
        );
        for wrong in ["{3..1}", "{a..b}", "{0..100000}", "{0..999}{0..999}"] {
            assert!(expanded(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_is_too_strange(pattern in "[a{}.,0-9]{0,20}") {
            if let Ok(all) = expanded(&pattern) {
                prop_assert!(!all.is_empty() && all.len() <= MOST);
            }
        }
    }

    #[test]
    fn files_of_folders_and_patterns() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "c.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |path: PathBuf| {
            files(&path, "tar").map(|files| -> Vec<_> {
                let name =
                    |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
                files.iter().map(name).collect()
            })
        };
        assert_eq!(names(folder.path().to_owned()).unwrap(), ["a.tar", "b.tar"]);
        assert_eq!(
            names(folder.path().join("*.tar")).unwrap(),
            ["a.tar", "b.tar"]
        );
        assert_eq!(
            names(folder.path().join("{b,x}.tar")).unwrap(),
            ["b.tar", "x.tar"]
        );
        assert!(names(folder.path().join("z*.tar")).is_err());
        let empty = tempfile::tempdir().unwrap();
        assert!(names(empty.path().to_owned()).is_err());
    }
}
