//! Attributes, netlink's length-type-value records: reading them from a message.
//!
//! Reading is by reference and never panics: a length that doesn't fit its buffer ends the iteration with an error.
//! Writing is the business of [`crate::message::Builder`].

/// The length of an attribute's header: a 16-bit length and a 16-bit type.
pub const HEADER_LEN: usize = 4;
/// Set in an attribute's type when its payload is made of attributes.
pub const FLAG_NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = !(FLAG_NESTED | 1 << 14);

/// Why bytes from a socket could not be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("attribute header or payload reaches beyond its buffer")]
    Truncated,
    #[error("attribute {kind} has {found} bytes, expected {expected}")]
    Length { kind: u16, found: usize, expected: usize },
    #[error("attribute {kind} is not text that ends in a zero byte")]
    Text { kind: u16 },
    #[error("attribute {kind} is missing from {inside}")]
    Missing { kind: u16, inside: &'static str },
    #[error("{what} has the unknown value {value}")]
    Unknown { what: &'static str, value: u32 },
}

/// One attribute of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub payload: &'a [u8],
}

/// The attributes of a message or of a nest, in order.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of a kind.
    pub fn find(&self, kind: u16) -> Result<Option<Attribute<'a>>, ParseError> {
        for attribute in self.clone() {
            let attribute = attribute?;
            if attribute.kind == kind {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }

    /// The first attribute of a kind, which must be there.
    pub fn require(&self, kind: u16, inside: &'static str) -> Result<Attribute<'a>, ParseError> {
        self.find(kind)?.ok_or(ParseError::Missing { kind, inside })
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = split_attribute(self.rest);
        match parsed {
            Some((attribute, rest)) => {
                self.rest = rest;
                Some(Ok(attribute))
            }
            None => {
                self.rest = &[];
                Some(Err(ParseError::Truncated))
            }
        }
    }
}

impl<'a> Attribute<'a> {
    pub fn u8(&self) -> Result<u8, ParseError> {
        Ok(self.array::<1>()?[0])
    }

    pub fn be16(&self) -> Result<u16, ParseError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn be32(&self) -> Result<u32, ParseError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn be64(&self) -> Result<u64, ParseError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A number in the machine's own byte order (generic netlink's and the acknowledgement's way).
    pub fn ne32(&self) -> Result<u32, ParseError> {
        Ok(u32::from_ne_bytes(self.array()?))
    }

    pub fn ne16(&self) -> Result<u16, ParseError> {
        Ok(u16::from_ne_bytes(self.array()?))
    }

    pub fn array<const N: usize>(&self) -> Result<[u8; N], ParseError> {
        self.payload.try_into().map_err(|_| ParseError::Length {
            kind: self.kind,
            found: self.payload.len(),
            expected: N,
        })
    }

    /// Text up to its first zero byte.
    pub fn text(&self) -> Result<&'a str, ParseError> {
        let end = self.payload.iter().position(|b| *b == 0).unwrap_or(self.payload.len());
        self.payload
            .get(..end)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .ok_or(ParseError::Text { kind: self.kind })
    }

    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.payload)
    }
}

/// Rounds a length up to the four bytes netlink aligns everything to.
pub const fn align(len: usize) -> usize {
    (len + 3) & !3
}

fn split_attribute(bytes: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let header: [u8; HEADER_LEN] = bytes.get(..HEADER_LEN)?.try_into().ok()?;
    let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
    let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
    let payload = bytes.get(HEADER_LEN..len)?;
    // The last attribute of a message may lack its padding.
    let rest = bytes.get(align(len)..).unwrap_or(&[]);
    Some((Attribute { kind, payload }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_below_the_header_is_truncated_not_endless() {
        let mut attributes = Attributes::new(&[0, 0, 1, 0, 9, 9]);
        assert_eq!(attributes.next(), Some(Err(ParseError::Truncated)));
        assert_eq!(attributes.next(), None);
    }

    #[test]
    fn the_last_attribute_needs_no_padding() {
        let found: Vec<_> = Attributes::new(&[5, 0, 7, 0, 42]).collect();
        assert_eq!(found, vec![Ok(Attribute { kind: 7, payload: &[42] })]);
    }
}
