use std::io::{Cursor, Write as _};
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use tch::Kind;
use zip::write::{FileOptions, ZipWriter};

use super::archive::Archive;
use super::*;

fn reference() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("reference/deit.pth")
}

/// The pickle of the reference, a file of PyTorch.
static PICKLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let bytes = std::fs::read(reference()).unwrap();
    let length = bytes.len() as u64;
    Archive::open(Cursor::new(bytes), length)
        .unwrap()
        .pickle()
        .unwrap()
});

/// An archive of this pickle and one storage, `0`, of `storage`.
fn archive(pickle: &[u8], storage: &[u8]) -> Archive<Cursor<Vec<u8>>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = FileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", pickle), ("a/data/0", storage)] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    let file = zip.finish().unwrap();
    let length = file.get_ref().len() as u64;
    Archive::open(file, length).unwrap()
}

/// A state dict of one tensor, `w`, of `class`, with this offset, shape and strides.
fn one_tensor(class: &str, offset: u8, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let tuple = |values: &[i32]| {
        let ints = values
            .iter()
            .flat_map(|value| [&b"J"[..], &value.to_le_bytes()].concat());
        [&b"("[..], &ints.collect::<Vec<u8>>(), b"t"].concat()
    };
    let text = |text: &str| [&[0x8c, text.len() as u8], text.as_bytes()].concat();
    let storage = [
        &b"("[..],
        &text("storage"),
        format!("ctorch\n{class}\n").as_bytes(),
        &text("0"),
        &text("cpu"),
        b"K\x01tQ",
    ]
    .concat();
    [
        &b"\x80\x02}"[..],
        &text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n(",
        &storage,
        &[b'K', offset],
        &tuple(shape),
        &tuple(strides),
        b"\x89)tRs.",
    ]
    .concat()
}

fn tensors(pickle: &[u8], storage: &[f32]) -> Result<Tensors, PthError> {
    let bytes: Vec<u8> = storage
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let parts = state_dict::find(&machine::run(pickle)?)?;
    archive(pickle, &bytes).tensors(parts, Device::Cpu)
}

#[test]
fn a_view_is_cut_from_its_storage() {
    let pickle = one_tensor("FloatStorage", 1, &[2, 2], &[1, 2]);
    let tensors = tensors(&pickle, &[0.0, 1.0, 2.0, 3.0, 4.0]).unwrap();
    assert_eq!(tensors["w"].kind(), Kind::Float);
    let values = Vec::<f32>::try_from(tensors["w"].flatten(0, -1)).unwrap();
    assert_eq!(values, [1.0, 3.0, 2.0, 4.0]);
}

#[test]
fn tensors_that_reach_too_far_are_refused() {
    let large = i32::MAX;
    for (offset, shape, strides) in [
        (4, vec![2], vec![1]),
        (0, vec![6], vec![1]),
        (0, vec![2, 2], vec![1]),
        (0, vec![2], vec![-1]),
        (0, vec![-1], vec![1]),
        (0, vec![large], vec![0]),
        (0, vec![large, large, large], vec![0, 0, 0]),
        (0, vec![2, 2], vec![large, large]),
        (0, vec![1; 9], vec![1; 9]),
    ] {
        let pickle = one_tensor("FloatStorage", offset, &shape, &strides);
        let error = tensors(&pickle, &[0.0; 5]).unwrap_err();
        let of_w = matches!(&error, PthError::Tensor { name, .. } if name == "w");
        assert!(of_w, "{shape:?} {error}");
    }
}

#[test]
fn whole_numbers_are_no_weights() {
    let pickle = one_tensor("LongStorage", 0, &[1], &[1]);
    let error = tensors(&pickle, &[0.0; 5]).unwrap_err();
    assert!(error.to_string().contains("torch.LongStorage"), "{error}");
}

#[test]
fn nothing_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("called");
    let command = format!("touch {}", witness.display());
    let call = [
        &b"\x80\x02cposix\nsystem\n\x8c"[..],
        &[command.len() as u8],
        command.as_bytes(),
        b"\x85R.",
    ]
    .concat();
    let error = state_dict::find(&machine::run(&call).unwrap()).unwrap_err();
    assert!(matches!(error, PthError::NoStateDict), "{error}");
    assert!(!witness.exists());
}

#[test]
fn a_storage_that_is_not_there_is_named() {
    let pickle = one_tensor("FloatStorage", 0, &[1], &[1]);
    let parts = state_dict::find(&machine::run(&pickle).unwrap()).unwrap();
    let mut elsewhere = parts.clone();
    elsewhere[0].1.storage.key = "7".to_owned();
    let error = archive(&pickle, &[0; 4])
        .tensors(elsewhere, Device::Cpu)
        .unwrap_err();
    assert!(error.to_string().contains("a/data/7"), "{error}");
}

#[test]
fn a_cut_off_file_is_refused() {
    let whole = std::fs::read(reference()).unwrap();
    for kept in [0, 10, whole.len() / 2, whole.len() - 1] {
        let part = Cursor::new(whole[..kept].to_vec());
        assert!(Archive::open(part, kept as u64).is_err(), "{kept}");
    }
}

#[test]
fn every_cut_of_a_pickle_is_refused_with_its_place() {
    let whole = &*PICKLE;
    for kept in 0..whole.len() {
        let error = machine::run(&whole[..kept]).unwrap_err();
        assert!(matches!(error, PthError::Pickle { .. }), "{kept} {error}");
    }
}

proptest! {
    #[test]
    fn no_pickle_is_too_strange(code in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = machine::run(&code).map(|pickle| state_dict::find(&pickle).map(drop));
    }

    #[test]
    fn a_damaged_pickle_gives_tensors_or_an_error(at in 0..PICKLE.len(), byte in any::<u8>()) {
        let mut code = PICKLE.clone();
        code[at] = byte;
        let _ = machine::run(&code)
            .and_then(|pickle| state_dict::find(&pickle))
            .and_then(|parts| archive(&code, &[0; 64]).tensors(parts, Device::Cpu));
    }
}
