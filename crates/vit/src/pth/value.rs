use tch::Kind;

/// Place of a value in a [`Pickle`].
pub(super) type Id = usize;

/// The objects a pickle builds. They refer to one another by place, so cycles are no trouble.
#[derive(Debug, Default)]
pub(super) struct Pickle {
    pub(super) values: Vec<Value>,
    /// The object that was saved.
    pub(super) root: Id,
}

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Int(i64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or a function, as `module.name`.
    Global(String),
    /// Memory of tensors.
    Storage(Storage),
    Tensor(Strided),
    /// What weights have no need of: numbers of floating point, None, bytes, and whatever would have
    /// had to be called.
    Other,
}

/// An entry of the archive that holds elements of one type.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    pub(super) key: String,
    /// The type's name, as `torch.FloatStorage`.
    pub(super) class: String,
}

/// A tensor: elements of a storage.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Strided {
    pub(super) storage: Storage,
    /// First element.
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    /// Elements from one index to the next, a dimension.
    pub(super) strides: Vec<i64>,
}

/// More than any weight has; libtorch's own limit is higher.
const MOST_DIMENSIONS: usize = 8;

impl Storage {
    /// The type of the elements, if weights can have it.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self.class.as_str() {
            "torch.FloatStorage" => Some(Kind::Float),
            "torch.DoubleStorage" => Some(Kind::Double),
            "torch.HalfStorage" => Some(Kind::Half),
            "torch.BFloat16Storage" => Some(Kind::BFloat16),
            _ => None,
        }
    }
}

impl Strided {
    /// Elements of the tensor; `None` when there is no such number, or a size is negative.
    pub(super) fn count(&self) -> Option<i64> {
        let sizes = self.shape.iter();
        sizes.copied().try_fold(1_i64, |count, size| {
            (size >= 0).then(|| count.checked_mul(size)).flatten()
        })
    }

    /// Elements a storage must have for the tensor to be within it; `None` when there is no such number.
    pub(super) fn reach(&self) -> Option<i64> {
        let dimensions = self.shape.len();
        if dimensions != self.strides.len() || dimensions > MOST_DIMENSIONS || self.offset < 0 {
            return None;
        }
        if self.shape.contains(&0) {
            return Some(0);
        }
        let steps = self.shape.iter().zip(&self.strides);
        let last = steps
            .into_iter()
            .try_fold(self.offset, |last, (&size, &stride)| {
                let step = (stride >= 0)
                    .then(|| (size - 1).checked_mul(stride))
                    .flatten()?;
                last.checked_add(step)
            })?;
        last.checked_add(1)
    }
}

impl Pickle {
    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match self.values.get(id) {
            Some(Value::Int(value)) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.values.get(id) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.values.get(id) {
            Some(Value::Tuple(items)) => Some(items),
            _ => None,
        }
    }

    pub(super) fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.values.get(id) {
            Some(Value::Dict(items)) => Some(items),
            _ => None,
        }
    }

    pub(super) fn ints(&self, id: Id) -> Option<Vec<i64>> {
        self.tuple(id)?.iter().map(|&item| self.int(item)).collect()
    }
}
