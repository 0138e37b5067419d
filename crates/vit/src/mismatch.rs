use std::collections::BTreeMap;
use std::fmt;

/// How tensors differ from the parameters they were meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Parameters that have no tensor.
    pub missing: Vec<String>,
    /// Tensors that are no parameter.
    pub unknown: Vec<String>,
    /// Tensors of another shape: (name, expected, found).
    pub misshaped: Vec<(String, Vec<i64>, Vec<i64>)>,
}

impl std::error::Error for Mismatch {}

/// Beginnings of the names of the classification heads' parameters.
const HEADS: [&str; 2] = ["head.", "head_dist."];

/// Whether a parameter of this name is of a classification head.
pub(crate) fn is_of_a_head(name: &str) -> bool {
    HEADS.iter().any(|head| name.starts_with(head))
}

impl Mismatch {
    /// Whether the classification heads are all that differs.
    pub fn is_of_heads_alone(&self) -> bool {
        let misshaped = self.misshaped.iter().map(|(name, ..)| name);
        let mut names = self.missing.iter().chain(&self.unknown).chain(misshaped);
        names.all(|name| is_of_a_head(name))
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misshaped = self.misshaped.iter().map(|(name, expected, found)| {
            format!("{name} is {found:?} where the model has {expected:?}")
        });
        let parts = [
            ("missing", listed(self.missing.iter().cloned())),
            ("unknown", listed(self.unknown.iter().cloned())),
            ("of another shape", listed(misshaped)),
        ];
        let mut separator = "the tensors are not those of the model: ";
        for (what, names) in parts.iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{what}: {names}")?;
            separator = "; ";
        }
        Ok(())
    }
}

/// Most entries that are written out. No model of ours has as many once its blocks are one entry.
const SHOWN: usize = 64;

/// All of `texts`, what differs in the number of the block alone as one.
fn listed(texts: impl Iterator<Item = String>) -> String {
    let mut entries: Vec<Entry> = Vec::new();
    let mut places = BTreeMap::new();
    for text in texts {
        let entry = Entry::of(&text);
        let place = *places.entry(entry.around.clone()).or_insert(entries.len());
        match entries.get_mut(place) {
            Some(known) => known.blocks.extend(entry.blocks),
            None => entries.push(entry),
        }
    }
    let shown: Vec<String> = entries.iter().take(SHOWN).map(Entry::to_string).collect();
    let mut text = shown.join(", ");
    if entries.len() > SHOWN {
        text.push_str(&format!(" and {} more", entries.len() - SHOWN));
    }
    text
}

/// A text about a tensor, with the numbers of the blocks of which it is true.
struct Entry {
    /// What is before and after the number.
    around: (String, Option<String>),
    blocks: Vec<u32>,
}

impl Entry {
    fn of(text: &str) -> Self {
        let split = text.find("blocks.").and_then(|at| {
            let (before, rest) = text.split_at(at + "blocks.".len());
            let (number, after) = rest.split_once('.')?;
            Some((before, number.parse().ok()?, after))
        });
        match split {
            Some((before, block, after)) => Self {
                around: (before.to_owned(), Some(after.to_owned())),
                blocks: vec![block],
            },
            None => Self {
                around: (text.to_owned(), None),
                blocks: Vec::new(),
            },
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = &self.around;
        let Some(after) = after else {
            return f.write_str(before);
        };
        match ranges(&self.blocks).as_slice() {
            [one] if self.blocks.len() == 1 => write!(f, "{before}{one}.{after}"),
            several => write!(f, "{before}{{{}}}.{after}", several.join(",")),
        }
    }
}

/// `numbers` in order, runs of neighbours as `first..last`.
fn ranges(numbers: &[u32]) -> Vec<String> {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}..{last}"),
        [] => String::new(),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_listed_together() {
        let mismatch = Mismatch {
            missing: [
                "norm.bias",
                "blocks.0.a.weight",
                "blocks.10.a.weight",
                "blocks.1.a.weight",
            ]
            .map(str::to_owned)
            .to_vec(),
            unknown: ["blocks.2.b", "blocks.x.b"].map(str::to_owned).to_vec(),
            misshaped: (0..12)
                .map(|l| (format!("blocks.{l}.c"), vec![4], vec![2]))
                .collect(),
        };
        assert_eq!(
            mismatch.to_string(),
            "the tensors are not those of the model: missing: norm.bias, blocks.{0..1,10}.a.weight; \
             unknown: blocks.2.b, blocks.x.b; \
             of another shape: blocks.{0..11}.c is [2] where the model has [4]"
        );
    }
}
