//! Reads the pickles that `torch.save` writes, without running anything and within limits: whatever a file
//! says, reading it takes no more memory than a small multiple of its length, and no deep recursion. candle's
//! reader has neither bound.

use std::rc::Rc;

use candle_core::{Result, bail};

/// The most objects and elements that are made from a pickle. The published models have some ten thousand.
const MOST_OBJECTS: usize = 1 << 20;
/// The deepest nesting. The published models have about ten levels.
const DEEPEST: usize = 64;

/// An object of a pickle.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) value: Value,
    /// The levels of objects below this one.
    depth: usize,
}

/// What an object is. Values that no tensor needs are `Other`.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Other,
    Int(i64),
    Text(String),
    Class {
        module: String,
        name: String,
    },
    Sequence(Vec<Rc<Object>>),
    Dictionary(Vec<(Rc<Object>, Rc<Object>)>),
    /// A call of a class or a function with a tuple of arguments.
    Call(Rc<Object>, Rc<Object>),
    /// An object that is stored elsewhere, under a key.
    Persistent(Rc<Object>),
}

impl Object {
    /// Returns the elements of a tuple or list.
    pub(super) fn sequence(&self) -> &[Rc<Self>] {
        match &self.value {
            Value::Sequence(elements) => elements,
            _ => &[],
        }
    }

    /// Returns the last value of a dictionary under `key`.
    pub(super) fn entry(&self, key: &str) -> Option<&Self> {
        let Value::Dictionary(entries) = &self.value else {
            return None;
        };
        let found = entries.iter().rfind(|(name, _)| name.text() == Some(key));
        found.map(|(_, value)| &**value)
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns a number that is not negative.
    pub(super) fn size(&self) -> Option<usize> {
        match self.value {
            Value::Int(value) => usize::try_from(value).ok(),
            _ => None,
        }
    }

    /// Returns the arguments if the object is a call of the function `module.name`.
    pub(super) fn call_of(&self, module: &str, name: &str) -> Option<&[Rc<Self>]> {
        let Value::Call(function, arguments) = &self.value else {
            return None;
        };
        match &function.value {
            Value::Class { module: m, name: n } if m == module && n == name => Some(arguments.sequence()),
            _ => None,
        }
    }
}

/// Reads a pickle and returns the object in it.
///
/// # Errors
/// Fails if the pickle is cut off, too large or nested too deeply, or if it has an operation that
/// `torch.save` does not use.
pub(super) fn read(pickle: &[u8]) -> Result<Rc<Object>> {
    let mut machine = Machine {
        rest: pickle,
        ..Machine::default()
    };
    while machine.step()? {}
    machine.pop()
}

/// The pickle machine: the operations that are left, the stack, where its marks are, and the memo.
#[derive(Default)]
struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Rc<Object>>,
    marks: Vec<usize>,
    memo: std::collections::HashMap<u32, Rc<Object>>,
    made: usize,
}

impl<'a> Machine<'a> {
    /// Carries out one operation; returns false at the end.
    fn step(&mut self) -> Result<bool> {
        let [operation] = self.take()?;
        match operation {
            // PROTO
            0x80 => drop(self.take::<1>()?),
            // STOP
            b'.' => return Ok(false),
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // GLOBAL
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Class { module, name }, 0)?;
            }
            // NONE, NEWTRUE, NEWFALSE
            b'N' | 0x88 | 0x89 => self.push(Value::Other, 0)?,
            // BINFLOAT
            b'G' => {
                self.take::<8>()?;
                self.push(Value::Other, 0)?;
            }
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let value = i32::from_le_bytes(self.take()?);
                self.push(Value::Int(value.into()), 0)?;
            }
            b'K' => {
                let [value] = self.take()?;
                self.push(Value::Int(value.into()), 0)?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take()?);
                self.push(Value::Int(value.into()), 0)?;
            }
            0x8a => self.long()?,
            // BINUNICODE
            b'X' => {
                let length = u32::from_le_bytes(self.take()?);
                let bytes = self.bytes(length as usize)?.to_vec();
                let text = String::from_utf8(bytes).map_err(candle_core::Error::wrap)?;
                self.push(Value::Text(text), 0)?;
            }
            // EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT
            b')' | b']' => self.push(Value::Sequence(Vec::new()), 0)?,
            b'}' => self.push(Value::Dictionary(Vec::new()), 0)?,
            // TUPLE, TUPLE1, TUPLE2, TUPLE3
            b't' => {
                let elements = self.take_marked()?;
                self.sequence(elements)?;
            }
            0x85..=0x87 => {
                let elements = self.take_last(usize::from(operation - 0x84))?;
                self.sequence(elements)?;
            }
            // DICT
            b'd' => {
                let elements = self.take_marked()?;
                self.push(Value::Dictionary(Vec::new()), 0)?;
                self.extend(elements)?;
            }
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' | b's' => {
                let elements = self.take_last(if operation == b'a' { 1 } else { 2 })?;
                self.extend(elements)?;
            }
            b'e' | b'u' => {
                let elements = self.take_marked()?;
                self.extend(elements)?;
            }
            // REDUCE, NEWOBJ
            b'R' | 0x81 => self.call()?,
            // BUILD: the state of an object beside its entries is not needed.
            b'b' => drop(self.pop()?),
            // BINPERSID
            b'Q' => {
                let key = self.pop()?;
                let depth = key.depth + 1;
                self.push(Value::Persistent(key), depth)?;
            }
            // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            b'q' | b'r' | b'h' | b'j' => {
                let number = if operation == b'q' || operation == b'h' {
                    u32::from(u8::from_le_bytes(self.take()?))
                } else {
                    u32::from_le_bytes(self.take()?)
                };
                self.memo(number, operation == b'q' || operation == b'r')?;
            }
            other => bail!("the pickle has the operation {other:#04x}, which torch.save does not write"),
        }
        Ok(true)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let Some((bytes, rest)) = self.rest.split_at_checked(count) else {
            bail!("the pickle is cut off");
        };
        self.rest = rest;
        Ok(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((bytes, rest)) = self.rest.split_first_chunk() else {
            bail!("the pickle is cut off");
        };
        self.rest = rest;
        Ok(*bytes)
    }

    fn line(&mut self) -> Result<String> {
        let Some(length) = self.rest.iter().position(|&byte| byte == b'\n') else {
            bail!("the pickle is cut off");
        };
        let line = String::from_utf8_lossy(&self.rest[..length]).into_owned();
        self.rest = &self.rest[length + 1..];
        Ok(line)
    }

    /// Pushes an integer of up to eight bytes.
    fn long(&mut self) -> Result<()> {
        let [count] = self.take()?;
        let digits = self.bytes(count.into())?;
        let Some(missing) = 8_usize.checked_sub(digits.len()) else {
            bail!("the pickle has an integer of {count} bytes");
        };
        let negative = digits.last().is_some_and(|&top| top >= 0x80);
        let mut bytes = [if negative { 0xff } else { 0 }; 8];
        bytes[..8 - missing].copy_from_slice(digits);
        self.push(Value::Int(i64::from_le_bytes(bytes)), 0)
    }

    /// Counts what is made, so that no pickle makes more than the limit.
    fn count(&mut self, more: usize) -> Result<()> {
        self.made += more;
        if self.made > MOST_OBJECTS {
            bail!("the pickle makes more than {MOST_OBJECTS} objects");
        }
        Ok(())
    }

    fn push(&mut self, value: Value, depth: usize) -> Result<()> {
        self.count(1)?;
        if depth > DEEPEST {
            bail!("the pickle is nested more than {DEEPEST} levels deep");
        }
        self.stack.push(Rc::new(Object { value, depth }));
        Ok(())
    }

    fn pop(&mut self) -> Result<Rc<Object>> {
        match self.stack.pop() {
            Some(object) => Ok(object),
            None => bail!("the pickle takes more objects than it made"),
        }
    }

    /// Takes the last `count` objects, in their order.
    fn take_last(&mut self, count: usize) -> Result<Vec<Rc<Object>>> {
        match self.stack.len().checked_sub(count) {
            Some(start) => Ok(self.stack.split_off(start)),
            None => bail!("the pickle takes more objects than it made"),
        }
    }

    /// Takes the objects after the last mark.
    fn take_marked(&mut self) -> Result<Vec<Rc<Object>>> {
        match self.marks.pop() {
            Some(start) if start <= self.stack.len() => Ok(self.stack.split_off(start)),
            _ => bail!("the pickle lacks a mark"),
        }
    }

    fn sequence(&mut self, elements: Vec<Rc<Object>>) -> Result<()> {
        let depth = depth_above(&elements);
        self.push(Value::Sequence(elements), depth)
    }

    /// Adds elements to the list, or keys and values to the dictionary, at the top of the stack.
    fn extend(&mut self, elements: Vec<Rc<Object>>) -> Result<()> {
        let mut target = self.pop()?;
        // The memo has the object as it was: it is copied if it is there.
        if Rc::get_mut(&mut target).is_none() {
            self.count(match &target.value {
                Value::Sequence(kept) => kept.len(),
                Value::Dictionary(kept) => kept.len(),
                _ => 0,
            })?;
        }
        let object = Rc::make_mut(&mut target);
        object.depth = object.depth.max(depth_above(&elements));
        if object.depth > DEEPEST {
            bail!("the pickle is nested more than {DEEPEST} levels deep");
        }
        match &mut object.value {
            Value::Sequence(kept) => kept.extend(elements),
            Value::Dictionary(kept) => {
                let (pairs, []) = elements.as_chunks::<2>() else {
                    bail!("the pickle has a key without a value");
                };
                kept.extend(
                    pairs
                        .iter()
                        .map(|[key, value]| (Rc::clone(key), Rc::clone(value))),
                );
            }
            _ => bail!("the pickle adds elements to something that has none"),
        }
        self.stack.push(target);
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        if let Value::Class { module, name } = &function.value
            && module == "collections"
            && (name == "OrderedDict" || name == "defaultdict")
        {
            return self.push(Value::Dictionary(Vec::new()), 0);
        }
        let depth = function.depth.max(arguments.depth) + 1;
        self.push(Value::Call(function, arguments), depth)
    }

    /// Keeps the object at the top of the stack under a number, or pushes the one that is kept there.
    fn memo(&mut self, number: u32, keep: bool) -> Result<()> {
        self.count(1)?;
        let object = if keep {
            self.stack.last()
        } else {
            self.memo.get(&number)
        };
        let Some(object) = object.map(Rc::clone) else {
            bail!("the pickle refers to an object that it did not make");
        };
        if keep {
            self.memo.insert(number, object);
        } else {
            self.stack.push(object);
        }
        Ok(())
    }
}

fn depth_above(elements: &[Rc<Object>]) -> usize {
    elements
        .iter()
        .map(|element| element.depth + 1)
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
