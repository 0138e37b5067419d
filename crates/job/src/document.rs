use std::sync::LazyLock;

use toml::de::DeTable;

use crate::schema::{Checked, Checker};
use crate::sections::Sections;
use crate::{Job, Problem, Problems, rules, schema};

static SCHEMA: LazyLock<serde_json::Value> = LazyLock::new(|| schema().to_value());

impl Job {
    /// Largest job document, in bytes.
    pub const MAX_BYTES: usize = 256 * 1024;

    /// Reads and checks a job document.
    ///
    /// # Errors
    /// Every problem of the document at once: syntax alone if it is not TOML; otherwise unknown and
    /// missing fields, wrong types, values out of range, and fields that do not fit together.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        if text.len() > Self::MAX_BYTES {
            let (length, limit) = (text.len(), Self::MAX_BYTES);
            let message = format!("{length} bytes are more than a job document may have, {limit}");
            return Err(Problems(vec![Problem::new("", message)]));
        }
        let (document, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(syntax(text, &errors));
        }
        let mut checked = Checker::new(&SCHEMA).check(&document);
        let sections = Sections::read(document.get_ref(), &mut checked.problems);
        rules::check(&sections, &mut checked.problems);
        let problems = in_order(text, checked);
        match sections.into_job() {
            Some(job) => problems.or(job),
            None => Err(problems),
        }
    }

    /// The document that parses to this job.
    ///
    /// # Errors
    /// A value TOML cannot hold, which no parsed job has.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

fn syntax(text: &str, errors: &[toml::de::Error]) -> Problems {
    let problem = |error: &toml::de::Error| Problem {
        path: String::new(),
        line: error.span().map(|span| line(text, span.start)),
        message: format!("not valid TOML: {}", error.message().replace('\n', ", ")),
    };
    let mut problems: Vec<Problem> = errors.iter().map(problem).collect();
    // What follows the first error of a line is mostly its echo.
    problems.dedup_by_key(|problem| problem.line);
    Problems(problems)
}

/// The problems with their lines, or those of the tables they are in, from the first line to the last.
fn in_order(text: &str, checked: Checked) -> Problems {
    let Checked {
        mut problems,
        offsets,
    } = checked;
    for problem in &mut problems.0 {
        let mut path = problem.path.as_str();
        problem.line = loop {
            if let Some(&offset) = offsets.get(path) {
                break Some(line(text, offset));
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => break None,
            }
        };
    }
    problems.0.sort_by_key(|problem| problem.line);
    problems
}

/// The line, from 1, of the byte at `offset`.
fn line(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|&&byte| byte == b'\n').count()
}
