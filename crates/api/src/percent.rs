//! Percent-encoding, as paths and queries use it.

/// Decodes `%XX`, and `+` as a blank where `form` says that the text is part of a query. `None` if
/// a percent sign is not followed by two hexadecimal digits or the result is not UTF-8.
pub(crate) fn decode(text: &str, form: bool) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if form => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

/// Encodes everything but unreserved characters: official clients split `Link` headers at commas
/// and do not take `+` for a blank.
pub(crate) fn encode(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
            encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn broken_encodings_are_refused() {
        for bad in ["%", "%2", "%zz", "a%f", "%ff", "%+1"] {
            assert_eq!(decode(bad, true), None, "{bad}");
        }
        assert_eq!(decode("a+b%20c%2B", true).as_deref(), Some("a b c+"));
        assert_eq!(decode("a+b", false).as_deref(), Some("a+b"));
    }

    proptest! {
        #[test]
        fn encoded_text_survives_and_is_plain(text in "\\PC*", form in any::<bool>()) {
            let encoded = encode(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_alphanumeric()
                || b"-._~%".contains(&byte)));
            prop_assert_eq!(decode(&encoded, form), Some(text));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            drop(decode(&text, true));
        }
    }
}
