//! What an ATTACH asks for beside the channel.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::modes::ChannelModes;
use crate::occupancy::OccupancyParam;
use crate::protocol_error::ProtocolError;

/// Most messages that a rewind goes back, as on Ably.
pub const REWIND_MESSAGES_MAX: u32 = 100;

/// Longest time that a rewind goes back: as long as channels remember messages.
pub const REWIND_SPAN_MAX: Duration = Duration::from_secs(120);

/// Rewind: from where in the past an attachment starts. Already cut to its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewind {
    /// `5`: that many messages.
    Messages(u32),
    /// `15s` or `2m`: that much time.
    Span(Duration),
}

impl Rewind {
    /// Reads the param's value.
    ///
    /// # Errors
    /// 40003 if it is neither a number nor a time.
    pub fn parse(text: &str) -> Result<Self, ProtocolError> {
        let number = |digits: &str| -> Option<u64> {
            // `parse` alone would let a sign pass.
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten()
        };
        let span = |digits: &str, unit: u64| {
            let seconds = number(digits)?.saturating_mul(unit);
            Some(Self::Span(
                Duration::from_secs(seconds).min(REWIND_SPAN_MAX),
            ))
        };
        let parsed = match (text.strip_suffix('s'), text.strip_suffix('m')) {
            (Some(digits), _) => span(digits, 1),
            (None, Some(digits)) => span(digits, 60),
            (None, None) => number(text).map(|count| {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                Self::Messages(count.min(REWIND_MESSAGES_MAX))
            }),
        };
        parsed.ok_or_else(|| {
            let remedy = "use a number of messages such as 10, or a time such as 15s or 2m";
            ProtocolError::bad_param("rewind", text, remedy)
        })
    }
}

/// Attach params: what an ATTACH asks for, from its flags, its params and the qualifier of its
/// channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachParams {
    /// The modes requested, not yet cut to what is permitted. `modes` wins over the flags.
    pub modes: ChannelModes,
    /// The counts to follow in band; needs `channel-metadata` on the channel.
    pub occupancy: Option<OccupancyParam>,
    /// Where to start.
    pub rewind: Option<Rewind>,
    /// The params of every ATTACHED: those that took effect, as they were asked for. Unknown params
    /// and unknown values of `occupancy` are dropped, as Ably does; so is `delta`, since data is
    /// never sent as differences.
    pub echo: BTreeMap<String, String>,
}

impl AttachParams {
    /// Merges the params of the channel's qualifier ([`headcount_access::QualifiedName::params`])
    /// and of the frame, of which the frame's win, and reads those that are known.
    ///
    /// # Errors
    /// 40003 for a `modes` or `rewind` that cannot be read.
    pub fn resolve(
        qualifier: &[(Cow<'_, str>, Cow<'_, str>)],
        frame: &BTreeMap<String, String>,
        flags: u64,
    ) -> Result<Self, ProtocolError> {
        let value = |name: &str| {
            let own = frame.get(name).map(String::as_str);
            own.or_else(|| {
                let mut pairs = qualifier.iter().rev();
                let (_, value) = pairs.find(|(key, _)| key == name)?;
                Some(value)
            })
        };
        let mut echo = BTreeMap::new();
        let mut keep = |name: &str, value: &str| {
            echo.insert(name.to_owned(), value.to_owned());
        };

        let modes = match value("modes") {
            Some(text) => {
                keep("modes", text);
                ChannelModes::parse(text)?
            }
            None => ChannelModes::requested(flags),
        };
        let occupancy = value("occupancy").and_then(|text| {
            let param = OccupancyParam::parse(text)?;
            keep("occupancy", text);
            Some(param)
        });
        let rewind = value("rewind").map(|text| {
            keep("rewind", text);
            Rewind::parse(text)
        });
        let rewind = rewind.transpose()?;
        Ok(Self {
            modes,
            occupancy,
            rewind,
            echo,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_access::QualifiedName;
    use headcount_model::Category;

    fn resolve(
        channel: &str,
        frame: &[(&str, &str)],
        flags: u64,
    ) -> Result<AttachParams, ProtocolError> {
        let name = QualifiedName::parse(channel).unwrap();
        AttachParams::resolve(name.params(), &pairs(frame), flags)
    }

    fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn nothing_asked_for_is_the_default() {
        let params = resolve("room", &[], 0).unwrap();
        assert_eq!(params.modes, ChannelModes::DEFAULT);
        assert_eq!((params.occupancy, params.rewind), (None, None));
        assert!(params.echo.is_empty());
    }

    #[test]
    fn the_frame_wins_over_the_qualifier() {
        let frame = [("rewind", "2")];
        let params = resolve("[?rewind=1&occupancy=metrics]room", &frame, 0).unwrap();
        assert_eq!(params.rewind, Some(Rewind::Messages(2)));
        assert_eq!(params.occupancy, Some(OccupancyParam::All));
        assert_eq!(
            params.echo,
            pairs(&[("occupancy", "metrics"), ("rewind", "2")])
        );
    }

    #[test]
    fn modes_win_over_flags() {
        let params = resolve("room", &[("modes", "subscribe")], 1 << 17).unwrap();
        assert_eq!(params.modes, ChannelModes::SUBSCRIBE);
        assert_eq!(params.echo, pairs(&[("modes", "subscribe")]));
        assert_eq!(
            resolve("room", &[("modes", "fly")], 0).unwrap_err().code,
            40003
        );
        assert_eq!(
            resolve("room", &[], 1 << 17).unwrap().modes,
            ChannelModes::PUBLISH
        );
    }

    #[test]
    fn what_is_unknown_is_not_echoed() {
        let frame = [
            ("agent", "chat-js/1.4.0"),
            ("delta", "vcdiff"),
            ("occupancy", "all"),
        ];
        let params = resolve("R::$chat", &frame, 3_080_192).unwrap();
        assert_eq!(params.occupancy, None);
        assert!(params.echo.is_empty());
        let one = resolve("room", &[("occupancy", "metrics.publishers")], 0).unwrap();
        assert_eq!(
            one.occupancy,
            Some(OccupancyParam::One(Category::Publishers))
        );
    }

    #[test]
    fn rewinds_are_numbers_or_times_within_bounds() {
        let span = |seconds| Rewind::Span(Duration::from_secs(seconds));
        for (text, rewind) in [
            ("0", Rewind::Messages(0)),
            ("10", Rewind::Messages(10)),
            ("101", Rewind::Messages(100)),
            ("18446744073709551615", Rewind::Messages(100)),
            ("15s", span(15)),
            ("2m", span(120)),
            ("3m", span(120)),
            ("18446744073709551615m", span(120)),
        ] {
            assert_eq!(Rewind::parse(text), Ok(rewind), "{text}");
        }
        for bad in [
            "",
            "s",
            "m",
            "-1",
            "+1",
            "1h",
            "1.5",
            "1 s",
            "1ms",
            "99999999999999999999",
        ] {
            assert_eq!(Rewind::parse(bad).unwrap_err().code, 40003, "{bad}");
        }
    }
}
