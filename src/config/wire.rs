//! The few shapes of protobuf's wire format that a configuration comes in.

pub(super) fn take<'a>(message: &mut &'a [u8], length: u64) -> Option<&'a [u8]> {
    let (head, rest) = message.split_at_checked(usize::try_from(length).ok()?)?;
    *message = rest;
    Some(head)
}

/// A base-128 integer of at most ten bytes; bits beyond 64 are refused.
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

/// What may follow a tag: a number of up to ten bytes, eight bytes, or bytes with their length.
pub(super) enum Field<'a> {
    Varint(u64),
    Double(f64),
    Bytes(&'a [u8]),
}

pub(super) fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(message)?;
    let content = match tag & 7 {
        0 => Field::Varint(varint(message)?),
        1 => Field::Double(f64::from_le_bytes(take(message, 8)?.try_into().ok()?)),
        2 => {
            let length = varint(message)?;
            Field::Bytes(take(message, length)?)
        }
        _ => return None,
    };
    Some((tag >> 3, content))
}
