use super::PthError;
use super::value::{Id, Pickle, Strided, Value};

/// Where training scripts keep the weights in what they save, the best first.
const WRAPPERS: [&str; 4] = ["state_dict_ema", "model_ema", "model", "state_dict"];

/// What DataParallel puts before every name.
const PARALLEL: &str = "module.";

/// The tensors of the state dict, by name.
///
/// # Errors
/// An object that holds no state dict, or one that holds more than tensors.
pub(super) fn find(pickle: &Pickle) -> Result<Vec<(String, Strided)>, PthError> {
    let root = pickle.dict(pickle.root).ok_or(PthError::NoStateDict)?;
    let wrapped = WRAPPERS.iter().find_map(|wrapper| {
        let mut items = root.iter();
        let (_, inner) = items.find(|(key, _)| pickle.text(*key) == Some(wrapper))?;
        pickle.dict(*inner).filter(|dict| has_tensors(pickle, dict))
    });
    let dict = wrapped.unwrap_or(root);
    if !has_tensors(pickle, dict) {
        return Err(PthError::NoStateDict);
    }
    dict.iter()
        .map(|&(key, value)| entry(pickle, key, value))
        .collect()
}

fn has_tensors(pickle: &Pickle, dict: &[(Id, Id)]) -> bool {
    dict.iter()
        .any(|&(_, value)| matches!(pickle.values[value], Value::Tensor(_)))
}

fn entry(pickle: &Pickle, key: Id, value: Id) -> Result<(String, Strided), PthError> {
    let name = pickle.text(key).ok_or(PthError::NoStateDict)?;
    let name = name.strip_prefix(PARALLEL).unwrap_or(name).to_owned();
    match &pickle.values[value] {
        Value::Tensor(tensor) => Ok((name, tensor.clone())),
        _ => Err(PthError::Tensor {
            name,
            reason: "it is not a plain tensor".to_owned(),
        }),
    }
}
