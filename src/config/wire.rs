//! Protobuf's wire format, as far as a configuration uses it.

/// Takes `length` bytes off a message.
pub(super) fn take<'a>(message: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (head, rest) = message.split_at_checked(usize::try_from(length).ok()?)?;
    *message = rest;
    Some(head)
}

/// Reads a base-128 integer of at most ten bytes; bits beyond 64 are refused.
pub(super) fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value: u64 = 0;
    for shift in (0..=63).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && *byte > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// One field of a message.
pub(super) struct Field<'a> {
    /// Number of the field.
    pub(super) number: u64,
    /// Content of the field.
    pub(super) content: Content<'a>,
}

/// The content of a field, by its wire type.
pub(super) enum Content<'a> {
    /// Type 0: an integer of up to ten bytes.
    Varint(u64),
    /// Type 1: eight bytes.
    Double(f64),
    /// Type 2: bytes with their length.
    Bytes(&'a [u8]),
}

/// Takes one field off a message; `None` for other wire types.
pub(super) fn field<'a>(message: &mut &'a [u8]) -> Option<Field<'a>> {
    let tag = varint(message)?;
    let content = match tag & 7 {
        0 => Content::Varint(varint(message)?),
        1 => Content::Double(f64::from_le_bytes(take(message, 8)?.try_into().ok()?)),
        2 => {
            let length = varint(message)?;
            Content::Bytes(take(message, length)?)
        }
        _ => return None,
    };
    Some(Field { number: tag >> 3, content })
}
