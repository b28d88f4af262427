//! Which counts an attachment wants to be told.

use headcount_model::{Category, Occupancy};
use serde_json::json;

/// Occupancy param: the counts that an attachment follows in band, as messages `[meta]occupancy` on
/// its own channel (contract §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OccupancyParam {
    /// `metrics`: all eight.
    All,
    /// `metrics.<category>`: one.
    One(Category),
}

impl OccupancyParam {
    /// Reads the param's value; `None` for any other than the nine.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("metrics")?;
        if rest.is_empty() {
            return Some(Self::All);
        }
        let name = rest.strip_prefix('.')?;
        let mut categories = Category::ALL.into_iter();
        categories
            .find(|category| category.as_str() == name)
            .map(Self::One)
    }

    /// The message's data as JSON text: `{"metrics":{…}}` with the counts that are followed.
    #[must_use]
    pub fn data(&self, occupancy: &Occupancy) -> String {
        let metrics = match self {
            Self::All => json!(occupancy),
            Self::One(category) => json!({ category.as_str(): occupancy.get(*category) }),
        };
        json!({ "metrics": metrics }).to_string()
    }

    /// Returns whether a count that is followed differs, so that a message is due.
    #[must_use]
    pub fn changed(&self, before: &Occupancy, after: &Occupancy) -> bool {
        self.only(before) != self.only(after)
    }

    /// Returns whether a count that is followed goes 0 ↔ non-zero, so that the message is due at
    /// once, and not with the next report.
    #[must_use]
    pub fn crosses(&self, before: &Occupancy, after: &Occupancy) -> bool {
        self.only(before).crosses(&self.only(after))
    }

    /// The counts that are followed, all else zero.
    fn only(self, occupancy: &Occupancy) -> Occupancy {
        match self {
            Self::All => *occupancy,
            Self::One(category) => {
                let mut only = Occupancy::ZERO;
                only.set(category, occupancy.get(category));
                only
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_model::Modes;

    #[test]
    fn nine_values_are_known() {
        assert_eq!(OccupancyParam::parse("metrics"), Some(OccupancyParam::All));
        for category in Category::ALL {
            let text = format!("metrics.{}", category.as_str());
            assert_eq!(
                OccupancyParam::parse(&text),
                Some(OccupancyParam::One(category))
            );
        }
        for bad in [
            "",
            "metrics.",
            "metrics.all",
            "metric",
            "metricsx",
            "metrics.Publishers",
        ] {
            assert_eq!(OccupancyParam::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn data_holds_what_is_followed() {
        let one = Modes::DEFAULT.occupancy();
        assert_eq!(
            OccupancyParam::One(Category::Publishers).data(&one),
            r#"{"metrics":{"publishers":1}}"#
        );
        let all: serde_json::Value = serde_json::from_str(&OccupancyParam::All.data(&one)).unwrap();
        assert_eq!(all["metrics"].as_object().unwrap().len(), 8);
        assert_eq!(all["metrics"]["presenceMembers"], 0);
    }

    #[test]
    fn only_followed_counts_matter() {
        let one = Modes::SUBSCRIBE.occupancy();
        let two = one.plus(one);
        let subscribers = OccupancyParam::One(Category::Subscribers);
        let publishers = OccupancyParam::One(Category::Publishers);
        assert!(subscribers.changed(&one, &two) && !subscribers.crosses(&one, &two));
        assert!(subscribers.crosses(&one, &Occupancy::ZERO));
        assert!(!publishers.changed(&one, &two));
        assert!(OccupancyParam::All.changed(&one, &two));
    }
}
