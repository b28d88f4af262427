//! The protocol version that a client speaks.

use crate::problem::Problem;

/// A protocol version; only its major number makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32);

impl Version {
    /// What a request without a version is taken for: the oldest, which is what the contract's
    /// examples for people with `curl` show.
    pub(crate) const UNTOLD: Self = Self(1);

    /// Reads `6` or `1.2`. Later versions than are known are accepted: what this listener offers
    /// has not changed since version 3.
    ///
    /// # Errors
    /// [`Problem::Version`] if the text is something else.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let numbers: Option<Vec<u32>> = text
            .split('.')
            .map(|part| {
                let plain =
                    (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
                if plain { part.parse().ok() } else { None }
            })
            .collect();
        match numbers.as_deref() {
            Some([major] | [major, _]) if *major > 0 => Ok(Self(*major)),
            _ => Err(Problem::Version {
                text: text.chars().take(20).collect(),
            }),
        }
    }

    /// Returns whether enumeration gives whole values unless asked for ids
    /// (`contract.md` section 3.2).
    pub(crate) fn lists_values(self) -> bool {
        self.0 <= 2
    }

    /// Returns whether the client takes results of a batch with their counts for granted.
    pub(crate) fn counts_results(self) -> bool {
        self.0 >= 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_all_clients_are_read() {
        for (text, values) in [
            ("1", true),
            ("1.2", true),
            ("2", true),
            ("3", false),
            ("6", false),
        ] {
            assert_eq!(
                Version::parse(text).unwrap().lists_values(),
                values,
                "{text}"
            );
        }
        assert!(Version::UNTOLD.lists_values());
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", "0", "x", "-1", "1.", ".2", "1.2.3", "+1", "99999", "1 2", "٣",
        ] {
            assert!(Version::parse(text).is_err(), "{text}");
        }
    }
}
