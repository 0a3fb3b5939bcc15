//! Reads the tables, vectors and offsets of a flatbuffer; a read past the end of the file is an error.

use std::ops::Range;

use super::error::TfliteError;
use super::graph::{Padding, Striding};

/// The bytes of the file. Numbers in it are little-endian.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Bytes<'_> {
    /// Reads the `N` bytes from position `at` on.
    pub(super) fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], TfliteError> {
        at.checked_add(N)
            .and_then(|end| self.0.get(at..end))
            .and_then(|slice| slice.try_into().ok())
            .ok_or(TfliteError::Truncated {
                at,
                len: N,
                size: self.0.len(),
            })
    }

    /// Reads an unsigned 32-bit number.
    pub(super) fn unsigned(&self, at: usize) -> Result<usize, TfliteError> {
        let value = u32::from_le_bytes(self.array(at)?);
        usize::try_from(value).map_err(|_| TfliteError::Broken {
            at,
            what: "an offset too large",
        })
    }

    /// Returns the position to which the relative offset at `at` points.
    pub(super) fn follow(&self, at: usize) -> Result<usize, TfliteError> {
        let offset = self.unsigned(at)?;
        at.checked_add(offset).ok_or(TfliteError::Broken {
            at,
            what: "an offset too large",
        })
    }
}

/// A table of the flatbuffer, which lies at `at`.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) bytes: Bytes<'a>,
    pub(super) at: usize,
}

impl<'a> Table<'a> {
    /// Returns the position of a field, or `None` if the field has its default value.
    pub(super) fn field(&self, id: usize) -> Result<Option<usize>, TfliteError> {
        let broken = TfliteError::Broken {
            at: self.at,
            what: "a table without a layout",
        };
        let back = i64::from(i32::from_le_bytes(self.bytes.array(self.at)?));
        let layout = i64::try_from(self.at)
            .ok()
            .and_then(|at| usize::try_from(at - back).ok())
            .ok_or(broken)?;
        let size = usize::from(u16::from_le_bytes(self.bytes.array(layout)?));
        let slot = 4 + 2 * id;
        if slot + 2 > size {
            return Ok(None);
        }
        let offset = usize::from(u16::from_le_bytes(self.bytes.array(layout + slot)?));
        Ok((offset != 0).then_some(self.at + offset))
    }

    pub(super) fn i8(&self, id: usize, default: i8) -> Result<i8, TfliteError> {
        self.field(id)?
            .map_or(Ok(default), |at| Ok(i8::from_le_bytes(self.bytes.array(at)?)))
    }

    pub(super) fn i32(&self, id: usize, default: i32) -> Result<i32, TfliteError> {
        self.field(id)?
            .map_or(Ok(default), |at| Ok(i32::from_le_bytes(self.bytes.array(at)?)))
    }

    /// Reads a number that must be positive.
    pub(super) fn positive(&self, id: usize) -> Result<usize, TfliteError> {
        let value = usize::try_from(self.i32(id, 0)?).unwrap_or(0);
        if value == 0 {
            return Err(TfliteError::Broken {
                at: self.at,
                what: "a stride or size that is not positive",
            });
        }
        Ok(value)
    }

    /// Reads padding, width stride and height stride, the first three fields of every operator with a sliding
    /// kernel.
    pub(super) fn striding(&self) -> Result<Striding, TfliteError> {
        let padding = match self.i8(0, 0)? {
            0 => Padding::Same,
            1 => Padding::Valid,
            _ => {
                return Err(TfliteError::Broken {
                    at: self.at,
                    what: "an unknown padding",
                });
            }
        };
        Ok(Striding {
            padding,
            stride: [self.positive(2)?, self.positive(1)?],
        })
    }

    /// Returns the range of bytes of a vector with `width` bytes an element; an absent vector is empty.
    pub(super) fn vector(&self, id: usize, width: usize) -> Result<Range<usize>, TfliteError> {
        let Some(at) = self.field(id)? else {
            return Ok(0..0);
        };
        let start = self.bytes.follow(at)?;
        let len = self.bytes.unsigned(start)?.checked_mul(width);
        let end = len.and_then(|len| (start + 4).checked_add(len));
        let end = end.filter(|&end| end <= self.bytes.0.len());
        let size = self.bytes.0.len();
        Ok(start + 4..end.ok_or(TfliteError::Truncated {
            at: start,
            len: len.unwrap_or(usize::MAX),
            size,
        })?)
    }

    pub(super) fn i32s(&self, id: usize) -> Result<Vec<i32>, TfliteError> {
        let range = self.vector(id, 4)?;
        range
            .step_by(4)
            .map(|at| Ok(i32::from_le_bytes(self.bytes.array(at)?)))
            .collect()
    }

    /// Reads a vector of numbers, each of which must be less than `below`.
    pub(super) fn indices(&self, id: usize, below: usize) -> Result<Vec<usize>, TfliteError> {
        let broken = || TfliteError::Broken {
            at: self.at,
            what: "a tensor index out of range",
        };
        let index = |value: i32| usize::try_from(value).ok().filter(|&index| index < below);
        self.i32s(id)?
            .into_iter()
            .map(|value| index(value).ok_or_else(broken))
            .collect()
    }

    /// Returns the table to which a field points.
    pub(super) fn child(&self, id: usize) -> Result<Option<Table<'a>>, TfliteError> {
        let Some(at) = self.field(id)? else {
            return Ok(None);
        };
        Ok(Some(Table {
            bytes: self.bytes,
            at: self.bytes.follow(at)?,
        }))
    }

    /// Returns the tables of a vector.
    pub(super) fn tables(&self, id: usize) -> Result<Vec<Table<'a>>, TfliteError> {
        let range = self.vector(id, 4)?;
        range
            .step_by(4)
            .map(|at| {
                Ok(Table {
                    bytes: self.bytes,
                    at: self.bytes.follow(at)?,
                })
            })
            .collect()
    }
}
