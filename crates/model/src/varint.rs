//! LEB128 integers and length-prefixed text, for the small encodings that the pure crates own:
//! cursors and state bytes. Everything that crosses a network or outlives a release in a log is
//! protobuf instead.

/// Appends an integer, seven bits a byte, least significant first.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends text with its length in bytes before it.
pub fn put_str(out: &mut Vec<u8>, text: &str) {
    put_u64(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Takes an integer off the front of `input`; `None` if it is cut short or too large.
pub fn take_u64(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Takes an integer that must fit 32 bits.
pub fn take_u32(input: &mut &[u8]) -> Option<u32> {
    take_u64(input)?.try_into().ok()
}

/// Takes text; `None` if it is cut short or not UTF-8.
pub fn take_str<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(take_u64(input)?).ok()?;
    let (text, rest) = input.split_at_checked(length)?;
    *input = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_and_text_survive(value in any::<u64>(), text in ".{0,40}") {
            let mut out = Vec::new();
            put_u64(&mut out, value);
            put_str(&mut out, &text);
            let mut input = out.as_slice();
            prop_assert_eq!(take_u64(&mut input), Some(value));
            prop_assert_eq!(take_str(&mut input), Some(text.as_str()));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            let mut input = bytes.as_slice();
            while take_u64(&mut input).is_some() {}
            let mut input = bytes.as_slice();
            while take_str(&mut input).is_some_and(|text| !text.is_empty()) {}
        }
    }
}
