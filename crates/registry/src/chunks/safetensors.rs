//! Where the tensors of a safetensors file lie.

use std::collections::BTreeMap;
use std::io::{self, Read};

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Longest header that is looked into; a file with a longer one is cut like any other file.
const MAX_HEADER: u64 = 16 << 20;

#[derive(Deserialize)]
#[serde(untagged)]
enum Member {
    Tensor { data_offsets: (u64, u64) },
    Other(IgnoredAny),
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
    let Ok(members) = serde_json::from_slice::<BTreeMap<String, Member>>(&header) else {
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
    use super::*;

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
            ("[]".to_owned(), 4),
            ("{".to_owned(), 0),
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
}
