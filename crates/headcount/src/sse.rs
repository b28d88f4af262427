//! Server-sent events as they come off the wire: bytes in, blocks out.

/// Most bytes of a block that is not complete; a server that sends more is none of ours.
const BLOCK_BYTES_MAX: usize = 1 << 20;

/// One block of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// The kind of event; empty for a block that only moves the resume point.
    pub(crate) event: String,
    /// The resume point after it, if it brings one.
    pub(crate) id: Option<String>,
    /// Its data.
    pub(crate) data: String,
}

/// A block outgrew its bound.
#[derive(Debug, thiserror::Error)]
#[error("the event stream has a block of more than {BLOCK_BYTES_MAX} bytes")]
pub(crate) struct TooLong;

/// What came of a stream so far.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    bytes: Vec<u8>,
}

impl Parser {
    /// Takes bytes in; returns the blocks that are complete with them. Comments and blocks without
    /// event and id are left out.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Block>, TooLong> {
        self.bytes.extend_from_slice(bytes);
        let mut blocks = Vec::new();
        let mut start = 0;
        while let Some(length) = self.bytes[start..]
            .windows(2)
            .position(|pair| pair == b"\n\n")
        {
            let text = String::from_utf8_lossy(&self.bytes[start..start + length]);
            blocks.extend(block(&text));
            start += length + 2;
        }
        self.bytes.drain(..start);
        if self.bytes.len() > BLOCK_BYTES_MAX {
            Err(TooLong)
        } else {
            Ok(blocks)
        }
    }
}

fn block(text: &str) -> Option<Block> {
    let mut block = Block::default();
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut block.event),
            "id" => block.id = Some(value.to_owned()),
            "data" => {
                if !block.data.is_empty() {
                    block.data.push('\n');
                }
                block.data.push_str(value);
            }
            _ => {}
        }
    }
    (!block.event.is_empty() || block.id.is_some()).then_some(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 2000\n\n: heartbeat\n\nevent: channel.opened\nid: abc\n\
        data: {\"name\":\"ü\"}\n\nid: d\n\nevent: end\ndata: a\ndata: b\n\n";

    fn expected() -> Vec<Block> {
        let block = |event: &str, id: Option<&str>, data: &str| Block {
            event: event.to_owned(),
            id: id.map(str::to_owned),
            data: data.to_owned(),
        };
        vec![
            block("channel.opened", Some("abc"), "{\"name\":\"ü\"}"),
            block("", Some("d"), ""),
            block("end", None, "a\nb"),
        ]
    }

    #[test]
    fn blocks_come_out_however_the_bytes_are_cut() {
        for size in [1, 2, 3, 7, STREAM.len()] {
            let mut parser = Parser::default();
            let pieces = STREAM.as_bytes().chunks(size);
            let blocks: Vec<Block> = pieces
                .flat_map(|piece| parser.push(piece).unwrap())
                .collect();
            assert_eq!(blocks, expected(), "in pieces of {size}");
        }
    }

    #[test]
    fn an_endless_block_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; BLOCK_BYTES_MAX / 2 + 1];
        assert!(parser.push(&piece).is_ok());
        assert!(parser.push(&piece).is_err());
    }
}
