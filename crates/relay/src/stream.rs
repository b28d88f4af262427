//! How far a numbered stream of messages was heard.

/// What a message is to the stream that it came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The first of a new stream.
    Opened,
    /// The next of the current stream.
    Next,
    /// Repeated, late, or after a hole that was answered already.
    Ignored,
    /// Something before it is missing. Told once for a stream.
    Hole,
}

/// The receiving end of a stream. Starts before every stream, which are numbered from 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inbound {
    stream: u64,
    sequence: u64,
    broken: bool,
}

impl Inbound {
    /// Makes the end of a stream whose number is known before its first message comes.
    pub(crate) fn of(stream: u64) -> Self {
        Self {
            stream,
            ..Self::default()
        }
    }

    pub(crate) fn stream(self) -> u64 {
        self.stream
    }

    /// Judges a message, and counts it as heard unless something is missing before it.
    pub(crate) fn hear(&mut self, stream: u64, sequence: u64) -> Heard {
        if stream > self.stream {
            *self = Self::of(stream);
        }
        if stream < self.stream || self.broken || sequence <= self.sequence {
            return Heard::Ignored;
        }
        if sequence > self.sequence + 1 {
            self.broken = true;
            return Heard::Hole;
        }
        self.sequence = sequence;
        if sequence == 1 {
            Heard::Opened
        } else {
            Heard::Next
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_heard_in_order_and_once() {
        let mut end = Inbound::default();
        assert_eq!(end.hear(1, 1), Heard::Opened);
        assert_eq!(end.hear(1, 2), Heard::Next);
        assert_eq!(end.hear(1, 2), Heard::Ignored);
        assert_eq!(end.hear(2, 1), Heard::Opened);
        assert_eq!(end.hear(1, 3), Heard::Ignored, "its stream is over");
    }

    #[test]
    fn a_hole_is_told_once_and_ends_the_stream() {
        let mut end = Inbound::default();
        assert_eq!(end.hear(1, 1), Heard::Opened);
        assert_eq!(end.hear(1, 3), Heard::Hole);
        assert_eq!(end.hear(1, 2), Heard::Ignored);
        assert_eq!(end.hear(1, 4), Heard::Ignored);
        assert_eq!(end.hear(2, 1), Heard::Opened);
        assert_eq!(end.hear(3, 2), Heard::Hole, "its beginning is missing");
    }
}
