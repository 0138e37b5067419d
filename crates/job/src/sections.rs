use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::{Compress, Data, Job, Model, Problems, Publish, Resources, Train};

/// The parts of a document that are whole, so that one part's problems do not hide another's.
pub(crate) struct Sections {
    pub(crate) name: Option<String>,
    pub(crate) model: Option<Model>,
    pub(crate) data: Option<Data>,
    pub(crate) compress: Option<Compress>,
    pub(crate) train: Option<Train>,
    pub(crate) resources: Option<Resources>,
    pub(crate) publish: Option<Publish>,
}

impl Sections {
    /// Reads every section of which `problems` has none.
    pub(crate) fn read(table: &DeTable<'_>, problems: &mut Problems) -> Self {
        Self {
            name: section(table, "name", problems),
            model: section(table, "model", problems),
            data: section(table, "data", problems),
            compress: section(table, "compress", problems),
            train: section(table, "train", problems),
            resources: section(table, "resources", problems),
            publish: section(table, "publish", problems),
        }
    }

    /// The job, when every section is whole.
    pub(crate) fn into_job(self) -> Option<Job> {
        Some(Job {
            name: self.name?,
            model: self.model?,
            data: self.data?,
            compress: self.compress?,
            train: self.train?,
            resources: self.resources?,
            publish: self.publish?,
        })
    }
}

fn section<T: DeserializeOwned>(
    table: &DeTable<'_>,
    name: &str,
    problems: &mut Problems,
) -> Option<T> {
    let inside = |path: &str| {
        path.strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    if problems.0.iter().any(|problem| inside(&problem.path)) {
        return None;
    }
    let empty = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
    let value = table.get(name).cloned().unwrap_or_else(empty);
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(section) => Some(section),
        Err(error) => {
            problems.add(name, error.message().replace('\n', ", "));
            None
        }
    }
}
