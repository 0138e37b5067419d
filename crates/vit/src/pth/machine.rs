//! The pickle machine, protocols 2 to 5, that calls nothing.
//!
//! Every operation makes at most one value, and strings are copied from the pickle, so memory is
//! bounded by the pickle's length.

use std::collections::HashMap;

use super::PthError;
use super::value::{Id, Pickle, Storage, Strided, Value};

/// Runs the pickle.
///
/// # Errors
/// An operation that is unknown or does not find what it needs, with its place.
pub(super) fn run(code: &[u8]) -> Result<Pickle, PthError> {
    let mut machine = Machine {
        code,
        ..Machine::default()
    };
    loop {
        let offset = machine.at;
        let failed = |reason| PthError::Pickle { offset, reason };
        let operation = machine.byte().map_err(failed)?;
        if operation == b'.' {
            machine.pickle.root = machine.pop().map_err(failed)?;
            return Ok(machine.pickle);
        }
        machine.step(operation).map_err(failed)?;
    }
}

#[derive(Default)]
struct Machine<'a> {
    code: &'a [u8],
    at: usize,
    pickle: Pickle,
    stack: Vec<Id>,
    /// Heights of the stack to which a tuple, list or dict reaches down.
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

type Outcome<T> = Result<T, String>;

impl Machine<'_> {
    fn step(&mut self, operation: u8) -> Outcome<()> {
        match operation {
            // PROTO, FRAME: about the writer's buffers.
            0x80 => self.take(1).map(drop)?,
            0x95 => self.take(8).map(drop)?,
            // None, True, False, BINFLOAT, and bytes.
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            b'G' => self.skip(8)?,
            b'C' => self.counted(1).and_then(|count| self.skip(count))?,
            b'B' => self.counted(4).and_then(|count| self.skip(count))?,
            0x8e => self.counted(8).and_then(|count| self.skip(count))?,
            // BININT, BININT1, BININT2, LONG1.
            b'J' => self.int(4)?,
            b'K' | b'M' => {
                let value = self.number(if operation == b'K' { 1 } else { 2 })?;
                self.push(Value::Int(value as i64));
            }
            0x8a => self.counted(1).and_then(|count| self.int(count))?,
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8, SHORT_BINSTRING, BINSTRING.
            0x8c | b'U' => self.counted(1).and_then(|count| self.text(count))?,
            b'X' | b'T' => self.counted(4).and_then(|count| self.text(count))?,
            0x8d => self.counted(8).and_then(|count| self.text(count))?,
            // Empty list, dict, set; lists and dicts of what is above the mark.
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x8f => self.push(Value::Other),
            b'l' => self.marked().map(|items| self.push(Value::List(items)))?,
            b'd' => {
                let items = pairs(self.marked()?)?;
                self.push(Value::Dict(items));
            }
            // Tuples.
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85..=0x87 => {
                let first = self.stack.len().checked_sub(usize::from(operation - 0x84));
                let items = self.stack.split_off(first.ok_or(SHORT)?);
                self.push(Value::Tuple(items));
            }
            b't' => self.marked().map(|items| self.push(Value::Tuple(items)))?,
            // MARK, POP, POP_MARK, DUP.
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop().map(drop)?,
            b'1' => self.marked().map(drop)?,
            b'2' => self.top().map(|id| self.stack.push(id))?,
            // APPEND, APPENDS, ADDITEMS, SETITEM, SETITEMS.
            b'a' => self.pop().and_then(|item| self.append(vec![item]))?,
            b'e' => self.marked().and_then(|items| self.append(items))?,
            0x90 => self.marked().map(drop)?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![(key, value)])?;
            }
            b'u' => self
                .marked()
                .and_then(pairs)
                .and_then(|items| self.set(items))?,
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET.
            b'q' => self.number(1).and_then(|place| self.remember(place))?,
            b'r' => self.number(4).and_then(|place| self.remember(place))?,
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => self.number(1).and_then(|place| self.recall(place))?,
            b'j' => self.number(4).and_then(|place| self.recall(place))?,
            // GLOBAL, STACK_GLOBAL.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let part = |id| self.pickle.text(id).ok_or("a name is no text");
                let global = format!("{}.{}", part(module)?, part(name)?);
                self.push(Value::Global(global));
            }
            // REDUCE and NEWOBJ would call; BUILD would set attributes.
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.called(callee, arguments)?;
            }
            0x92 => {
                let (_, arguments, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.called(callee, arguments)?;
            }
            b'b' => self.pop().map(drop)?,
            // BINPERSID.
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id).ok_or("not the name of a storage")?;
                self.push(Value::Storage(storage));
            }
            unknown => return Err(format!("operation {unknown:#04x} is not known")),
        }
        Ok(())
    }

    /// What the call of `callee` stands for.
    fn called(&mut self, callee: Id, arguments: Id) -> Outcome<()> {
        let Some(Value::Global(name)) = self.pickle.values.get(callee) else {
            self.push(Value::Other);
            return Ok(());
        };
        let value = match name.as_str() {
            "collections.OrderedDict" => Value::Dict(Vec::new()),
            "torch._utils._rebuild_tensor_v2" => {
                let tensor = self.tensor(arguments);
                Value::Tensor(tensor.ok_or("not the description of a tensor")?)
            }
            "torch._utils._rebuild_parameter" => {
                let tensor = self.pickle.tuple(arguments).and_then(<[Id]>::first);
                self.stack
                    .push(*tensor.ok_or("a parameter without a tensor")?);
                return Ok(());
            }
            _ => Value::Other,
        };
        self.push(value);
        Ok(())
    }

    /// ("storage", class, key, device, elements).
    fn storage(&self, id: Id) -> Option<Storage> {
        let [tag, class, key, ..] = self.pickle.tuple(id)? else {
            return None;
        };
        let Some(Value::Global(class)) = self.pickle.values.get(*class) else {
            return None;
        };
        (self.pickle.text(*tag)? == "storage").then_some(Storage {
            key: self.pickle.text(*key)?.to_owned(),
            class: class.clone(),
        })
    }

    /// (storage, offset, sizes, strides, ..).
    fn tensor(&self, id: Id) -> Option<Strided> {
        let [storage, offset, shape, strides, ..] = self.pickle.tuple(id)? else {
            return None;
        };
        let Some(Value::Storage(storage)) = self.pickle.values.get(*storage) else {
            return None;
        };
        Some(Strided {
            storage: storage.clone(),
            offset: self.pickle.int(*offset)?,
            shape: self.pickle.ints(*shape)?,
            strides: self.pickle.ints(*strides)?,
        })
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.pickle.values.len());
        self.pickle.values.push(value);
    }

    fn pop(&mut self) -> Outcome<Id> {
        // What is below a mark belongs to what was begun before it.
        if self
            .marks
            .last()
            .is_some_and(|&mark| self.stack.len() <= mark)
        {
            return Err(SHORT.to_owned());
        }
        self.stack.pop().ok_or_else(|| SHORT.to_owned())
    }

    fn top(&self) -> Outcome<Id> {
        self.stack.last().copied().ok_or_else(|| SHORT.to_owned())
    }

    /// All above the last mark.
    fn marked(&mut self) -> Outcome<Vec<Id>> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        if mark > self.stack.len() {
            return Err(SHORT.to_owned());
        }
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<Id>) -> Outcome<()> {
        let list = self.top()?;
        if let Value::List(list) = &mut self.pickle.values[list] {
            list.extend(items);
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<(Id, Id)>) -> Outcome<()> {
        let dict = self.top()?;
        if let Value::Dict(dict) = &mut self.pickle.values[dict] {
            dict.extend(items);
        }
        Ok(())
    }

    fn remember(&mut self, place: u64) -> Outcome<()> {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: u64) -> Outcome<()> {
        let id = self
            .memo
            .get(&place)
            .ok_or("nothing was remembered there")?;
        self.stack.push(*id);
        Ok(())
    }

    fn byte(&mut self) -> Outcome<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn take(&mut self, count: usize) -> Outcome<&[u8]> {
        let end = self.at.checked_add(count).ok_or("the pickle ends early")?;
        let bytes = self.code.get(self.at..end).ok_or("the pickle ends early")?;
        self.at = end;
        Ok(bytes)
    }

    /// A number of `count` bytes, at most 8, little-endian, without a sign.
    fn number(&mut self, count: usize) -> Outcome<u64> {
        let bytes = self.take(count)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn counted(&mut self, bytes: usize) -> Outcome<usize> {
        let count = self.number(bytes)?;
        usize::try_from(count).map_err(|_| "the pickle ends early".to_owned())
    }

    /// A number of `count` bytes with a sign; one that is larger than any size becomes a placeholder.
    fn int(&mut self, count: usize) -> Outcome<()> {
        if count > 8 {
            return self.skip(count);
        }
        let unused = 64 - 8 * count as u32;
        let value = self.number(count)?;
        // Shifting up and down again spreads the sign; there is none to spread in no bytes.
        let value = (value.checked_shl(unused).unwrap_or(0) as i64).checked_shr(unused);
        self.push(Value::Int(value.unwrap_or(0)));
        Ok(())
    }

    fn text(&mut self, count: usize) -> Outcome<()> {
        let bytes = self.take(count)?.to_vec();
        let text = String::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn line(&mut self) -> Outcome<String> {
        let rest = &self.code[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let bytes = self.take(end.ok_or("a name has no end")? + 1)?;
        let text = str::from_utf8(&bytes[..bytes.len() - 1]);
        text.map(str::to_owned)
            .map_err(|_| "a name is not UTF-8".to_owned())
    }

    /// Bytes that weights have no need of.
    fn skip(&mut self, count: usize) -> Outcome<()> {
        self.take(count)?;
        self.push(Value::Other);
        Ok(())
    }
}

const SHORT: &str = "the stack holds too little";

fn pairs(items: Vec<Id>) -> Outcome<Vec<(Id, Id)>> {
    if !items.len().is_multiple_of(2) {
        return Err("a key has no value".to_owned());
    }
    Ok(items
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect())
}
