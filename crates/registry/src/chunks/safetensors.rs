//! Where the tensors of a safetensors file lie.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Longest header that is looked into; a file with a longer one is cut like any other file.
const MAX_HEADER: u64 = 16 << 20;

#[derive(Deserialize)]
#[serde(untagged)]
enum Member {
    Tensor { data_offsets: (u64, u64) },
    Other(IgnoredAny),
}

/// The members of a header, no name twice: readers differ in which of two they take.
struct Members(BTreeMap<String, Member>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;

        impl<'de> Visitor<'de> for Each {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, member)) = map.next_entry::<String, Member>()? {
                    if members.insert(name, member).is_some() {
                        return Err(A::Error::custom("a name comes twice"));
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Each)
    }
}

/// Lengths of the header and of each tensor, in the order of the file; `None` when it is no safetensors
/// file that can be cut so. Nothing here is trusted to be true of the file: lengths only guide the cuts.
pub(super) fn parts(reader: &mut impl Read, file_size: u64) -> io::Result<Option<Vec<u64>>> {
    let mut length = [0; 8];
    if file_size < 8 {
        return Ok(None);
    }
    reader.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > file_size - 8 {
        return Ok(None);
    }
    let mut header = Vec::new();
    reader.take(length).read_to_end(&mut header)?;
    let Ok(Members(members)) = serde_json::from_slice(&header) else {
        return Ok(None);
    };
    let mut ends: Vec<(u64, u64)> = members
        .into_values()
        .filter_map(|member| match member {
            Member::Tensor { data_offsets } => Some(data_offsets),
            Member::Other(_) => None,
        })
        .collect();
    ends.sort_unstable();
    let mut parts = vec![8 + length];
    let mut at = 0;
    for (begin, end) in ends {
        if begin != at || end < begin {
            return Ok(None);
        }
        if end > begin {
            parts.push(end - begin);
        }
        at = end;
    }
    Ok((at == file_size - 8 - length).then_some(parts))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.resize(file.len() + data, 1);
        file
    }

    fn parts_of(file: &[u8]) -> Option<Vec<u64>> {
        parts(&mut &file[..], file.len() as u64).expect("reads")
    }

    #[test]
    fn tensors_are_found_in_the_order_of_the_file() {
        let header = r#"{"__metadata__":{"a":"b"},"y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"z":{"dtype":"F32","shape":[0],"data_offsets":[12,12]}}"#;
        assert_eq!(
            parts_of(&file(header, 12)),
            Some(vec![8 + header.len() as u64, 4, 8])
        );
    }

    #[test]
    fn headers_that_lie_are_not_followed() {
        let offsets = |offsets: &str| format!(r#"{{"x":{{"data_offsets":{offsets}}}}}"#);
        for (header, data) in [
            (offsets("[0,5]"), 4),
            (offsets("[0,3]"), 4),
            (offsets("[1,4]"), 4),
            (offsets("[4,0]"), 4),
            (offsets("[0,18446744073709551615]"), 4),
            (offsets("[-1,4]"), 4),
            (offsets("[0,4,8]"), 4),
            (offsets("[0.0,4]"), 4),
            (
                r#"{"x":{"data_offsets":[0,4]},"x":{"data_offsets":[4,8]}}"#.to_owned(),
                8,
            ),
            (
                r#"{"x":{"data_offsets":[0,4]},"y":{"data_offsets":[2,6]}}"#.to_owned(),
                6,
            ),
            ("[]".to_owned(), 4),
            ("{".to_owned(), 0),
            ("[".repeat(100_000), 0),
        ] {
            assert_eq!(parts_of(&file(&header, data)), None, "{header}");
        }
        assert_eq!(parts_of(b"short"), None);
        let mut bomb = u64::MAX.to_le_bytes().to_vec();
        bomb.extend_from_slice(b"{}");
        assert_eq!(parts_of(&bomb), None);
        bomb[..8].copy_from_slice(&3_u64.to_le_bytes());
        assert_eq!(parts_of(&bomb), None);
    }

    proptest! {
        /// Whatever a file says, it is cut into all of itself or not at all.
        #[test]
        fn parts_are_the_file(
            ends in prop::collection::vec((0..40_u64, 0..40_u64), 0..6), data in 0..40_usize,
            place in 0..400_usize, put in any::<u8>(), damaged in any::<bool>(),
        ) {
            let members: Vec<String> = ends
                .iter()
                .enumerate()
                .map(|(i, (begin, end))| format!(r#""t{i}":{{"data_offsets":[{begin},{end}]}}"#))
                .collect();
            let mut file = file(&format!("{{{}}}", members.join(",")), data);
            if damaged {
                let place = place % file.len();
                file[place] = put;
            }
            fuzzing::safetensors(&file);
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            fuzzing::safetensors(&bytes);
        }
    }
}
