//! The query of a request, decoded once.

use crate::percent;
use crate::problem::Problem;

/// Names and values in the order written. Unknown names are nobody's business and stay unread.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes what follows the question mark. A name without `=` has an empty value.
    ///
    /// # Errors
    /// [`Problem::MalformedQuery`] if the percent-encoding is broken.
    pub(crate) fn parse(raw: &str) -> Result<Self, Problem> {
        let decode = |text| percent::decode(text, true).ok_or(Problem::MalformedQuery);
        raw.split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Ok((decode(name)?, decode(value)?))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Returns all names and values.
    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// Returns the value of a parameter; of a repeated one, the last.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns the value of a parameter that is there and not empty.
    pub(crate) fn given(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }
}

/// Names only: values may be credentials.
impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_decoded_and_the_last_one_counts() {
        let query = Query::parse("a=1&b=x%20y+z&a=2&flag&&=v").unwrap();
        assert_eq!(query.get("a"), Some("2"));
        assert_eq!(query.get("b"), Some("x y z"));
        assert_eq!(query.get("flag"), Some(""));
        assert_eq!(query.given("flag"), None);
        assert_eq!(query.get("c"), None);
        assert!(Query::parse("a=%zz").is_err());
    }

    #[test]
    fn values_are_not_printed() {
        let query = Query::parse("key=app.k:secret").unwrap();
        assert_eq!(format!("{query:?}"), r#"{"key"}"#);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            drop(Query::parse(&text));
        }
    }
}
