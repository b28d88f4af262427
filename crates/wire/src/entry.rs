//! The entries of a shard's log as bytes, written and read without the generated types where there
//! is much of it: names and registers.
//!
//! The bytes are those of the generated types, and what these read is read. Only a message that comes
//! twice where one is expected, which no encoder writes, is refused instead of merged.

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use headcount_model::{
    Batch, ChannelKey, Command, Entry, Occupancy, OwnerRef, RegionName, Register, Timestamp,
};
use prost::encoding::{
    WireType, encode_key, encode_varint, encoded_len_varint, message, uint32, uint64,
};

use crate::error::{WireError, named, required};
use crate::fields::{Fields, Value};
use crate::names::{NameReader, Numbers, used_counts};
use crate::proto::storage::v1 as proto;
use crate::shard::{
    FORMAT, check_format, decode_error, put_claim, put_owner, put_pacing, put_transition,
    take_claim, take_owner, take_pacing, take_transition,
};

const WHAT: &str = "shard entry";

/// Encodes an entry as a raft command.
#[must_use]
pub fn encode_entry(entry: &Entry) -> Bytes {
    let mut names = Names::default();
    let mut commands = Vec::new();
    for command in &entry.commands {
        put_command(command, &mut names, &mut commands);
    }
    let region = entry.coordinator.as_str();
    let mut bytes = Vec::with_capacity(32 + region.len() + names.bytes.len() + commands.len());
    uint32::encode(1, &FORMAT, &mut bytes);
    put_number(2, entry.stamp.0, &mut bytes);
    put_text(3, region, &mut bytes);
    bytes.extend_from_slice(&names.bytes);
    bytes.extend_from_slice(&commands);
    bytes.into()
}

/// Decodes what [`encode_entry`] made, of this or an earlier release.
///
/// # Errors
/// [`WireError`] names what cannot be understood.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, WireError> {
    let (mut format, mut stamp, mut coordinator) = (0, 0, "");
    let mut names = NameReader::default();
    let mut commands = Vec::new();
    for field in Fields::new(WHAT, bytes) {
        match field? {
            // As protobuf has it, a number that is too wide is cut.
            (1, Value::Varint(number)) => format = number as u32,
            (2, Value::Varint(millis)) => stamp = millis,
            (3, Value::Bytes(region)) => coordinator = text(region)?,
            (4, Value::Bytes(name)) => {
                let (app, name) = take_name(name)?;
                names.add_one(app, name)?;
            }
            (5, Value::Bytes(command)) => commands.push(command),
            (1..=5, _) => return Err(malformed("a field has another type")),
            _ => {}
        }
    }
    check_format(WHAT, format)?;
    let commands = commands.into_iter();
    let commands = commands.map(|command| take_command(command, &names));
    Ok(Entry {
        stamp: Timestamp(stamp),
        coordinator: RegionName::new(coordinator).map_err(named("coordinator"))?,
        commands: commands.collect::<Result<_, _>>()?,
    })
}

/// The names of an entry, each written down when it is met first.
#[derive(Default)]
struct Names<'a> {
    numbers: HashMap<&'a ChannelKey, u32, RandomState>,
    last_app: &'a str,
    /// As field 4 of the entry.
    bytes: Vec<u8>,
}

impl<'a> Numbers<'a> for Names<'a> {
    fn number(&mut self, channel: &'a ChannelKey) -> u32 {
        let next = u32::try_from(self.numbers.len()).expect("far fewer names than 2^32");
        let number = *self.numbers.entry(channel).or_insert(next);
        if number == next {
            let (app, name) = (channel.app.as_str(), channel.name.as_str());
            let told = if app == self.last_app { "" } else { app };
            self.last_app = app;
            let length = |text: &str| match text.len() {
                0 => 0,
                length => 1 + encoded_len_varint(length as u64) + length,
            };
            encode_key(4, WireType::LengthDelimited, &mut self.bytes);
            encode_varint((length(told) + length(name)) as u64, &mut self.bytes);
            put_text(1, told, &mut self.bytes);
            put_text(2, name, &mut self.bytes);
        }
        number
    }
}

/// Writes a command as field 5 of the entry.
fn put_command<'a>(command: &'a Command, names: &mut Names<'a>, out: &mut Vec<u8>) {
    use proto::shard_command::Command as Proto;
    let command = match command {
        Command::Batch(batch) => {
            let batch = put_batch(batch, names);
            let length = 1 + encoded_len_varint(batch.len() as u64) + batch.len();
            encode_key(5, WireType::LengthDelimited, out);
            encode_varint(length as u64, out);
            encode_key(2, WireType::LengthDelimited, out);
            encode_varint(batch.len() as u64, out);
            out.extend_from_slice(&batch);
            return;
        }
        Command::Claim(claim) => Proto::Claim(put_claim(claim, names)),
        Command::ExpireRegion(owner) => Proto::ExpireRegion(put_owner(owner)),
        Command::Settled(owner) => Proto::Settled(put_owner(owner)),
        Command::Configure(pacing) => Proto::Configure(put_pacing(pacing)),
        Command::Tick => Proto::Tick(proto::Tick {}),
    };
    let command = Some(command);
    message::encode(5, &proto::ShardCommand { command }, out);
}

fn put_batch<'a>(batch: &'a Batch, names: &mut Names<'a>) -> Vec<u8> {
    let room = 64 + 48 * batch.transitions.len() + 24 * batch.registers.len();
    let mut out = Vec::with_capacity(room);
    message::encode(1, &put_owner(&batch.owner), &mut out);
    put_number(2, batch.sequence, &mut out);
    uint64::encode_packed(3, &batch.dropped, &mut out);
    for told in &batch.transitions {
        message::encode(4, &put_transition(told, names), &mut out);
    }
    for register in &batch.registers {
        let number = names.number(&register.channel);
        encode_key(5, WireType::LengthDelimited, &mut out);
        // A register has at most 48 bytes and so a length of one, as have its counts.
        patch_length(&mut out, |out| {
            put_number(1, number.into(), out);
            let used = used_counts(&register.occupancy);
            if used > 0 {
                encode_key(2, WireType::LengthDelimited, out);
                patch_length(out, |out| {
                    for count in &register.occupancy.counts()[..used] {
                        encode_varint((*count).into(), out);
                    }
                });
            }
        });
    }
    out
}

/// Writes a length of one byte before what follows it.
fn patch_length(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    fill(out);
    let length = out.len() - at - 1;
    debug_assert!(
        length < 0x80,
        "callers write less than a length of one byte says"
    );
    out[at] = length as u8;
}

/// Writes a number, unless it is zero.
fn put_number(field: u32, number: u64, out: &mut Vec<u8>) {
    if number != 0 {
        uint64::encode(field, &number, out);
    }
}

/// Writes a text, unless it is empty.
fn put_text(field: u32, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        encode_key(field, WireType::LengthDelimited, out);
        encode_varint(text.len() as u64, out);
        out.extend_from_slice(text.as_bytes());
    }
}

fn take_name(bytes: &[u8]) -> Result<(&str, &str), WireError> {
    let (mut app, mut name) = ("", "");
    for field in Fields::new(WHAT, bytes) {
        match field? {
            (1, Value::Bytes(bytes)) => app = text(bytes)?,
            (2, Value::Bytes(bytes)) => name = text(bytes)?,
            (1 | 2, _) => return Err(malformed("a field has another type")),
            _ => {}
        }
    }
    Ok((app, name))
}

fn take_command(bytes: &[u8], names: &NameReader) -> Result<Command, WireError> {
    let mut command = None;
    for field in Fields::new(WHAT, bytes) {
        match field? {
            (1..=6, _) if command.is_some() => return Err(malformed("a command is two")),
            (2, Value::Bytes(batch)) => command = Some(Command::Batch(take_batch(batch, names)?)),
            (kind @ 1..=6, Value::Bytes(other)) => command = Some(take_rare(kind, other, names)?),
            (1..=6, _) => return Err(malformed("a field has another type")),
            _ => {}
        }
    }
    required("command", command)
}

/// Reads a command that is no batch, by its field.
fn take_rare(kind: u32, bytes: &[u8], names: &NameReader) -> Result<Command, WireError> {
    Ok(match kind {
        1 => Command::Claim(take_claim(generated(bytes)?, names)?),
        3 => Command::ExpireRegion(take_owner(Some(generated(bytes)?))?),
        4 => Command::Settled(take_owner(Some(generated(bytes)?))?),
        5 => Command::Configure(take_pacing(generated(bytes)?)),
        _ => {
            let proto::Tick {} = generated(bytes)?;
            Command::Tick
        }
    })
}

fn take_batch(bytes: &[u8], names: &NameReader) -> Result<Batch, WireError> {
    let mut owner: Option<OwnerRef> = None;
    let mut sequence = 0;
    let mut dropped = Vec::new();
    let mut transitions = Vec::new();
    let mut registers = Vec::new();
    for field in Fields::new(WHAT, bytes) {
        match field? {
            (1, Value::Bytes(_)) if owner.is_some() => {
                return Err(malformed("a batch has two owners"));
            }
            (1, Value::Bytes(bytes)) => owner = Some(take_owner(Some(generated(bytes)?))?),
            (2, Value::Varint(number)) => sequence = number,
            (3, Value::Varint(number)) => dropped.push(number),
            (3, Value::Bytes(packed)) => {
                let mut packed = Fields::new(WHAT, packed);
                while !packed.is_empty() {
                    dropped.push(packed.varint()?);
                }
            }
            (4, Value::Bytes(bytes)) => {
                transitions.push(take_transition(&generated(bytes)?, names)?);
            }
            (5, Value::Bytes(register)) => registers.push(take_register(register, names)?),
            (1..=5, _) => return Err(malformed("a field has another type")),
            _ => {}
        }
    }
    Ok(Batch {
        owner: required("owner", owner)?,
        sequence,
        dropped,
        transitions,
        registers,
    })
}

fn take_register(bytes: &[u8], names: &NameReader) -> Result<Register, WireError> {
    let mut channel = 0;
    let (mut counts, mut used) = ([0; 8], 0_usize);
    let mut count = |count: u64| {
        let place = counts.get_mut(used);
        used += 1;
        let value = used as u64;
        let field = "counts";
        *place.ok_or(WireError::Range { field, value })? = count as u32;
        Ok(())
    };
    for field in Fields::new(WHAT, bytes) {
        match field? {
            (1, Value::Varint(number)) => channel = number as u32,
            (2, Value::Varint(number)) => count(number)?,
            (2, Value::Bytes(packed)) => {
                let mut packed = Fields::new(WHAT, packed);
                while !packed.is_empty() {
                    count(packed.varint()?)?;
                }
            }
            (1 | 2, _) => return Err(malformed("a field has another type")),
            _ => {}
        }
    }
    Ok(Register {
        channel: names.channel(channel)?,
        occupancy: Occupancy::from_counts(counts),
    })
}

/// Reads a message by its generated type.
fn generated<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, WireError> {
    M::decode(bytes).map_err(|error| decode_error(WHAT, &error))
}

fn text(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| malformed("a name is not UTF-8"))
}

fn malformed<R: ToString + ?Sized>(reason: &R) -> WireError {
    Fields::malformed(WHAT, reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::names::NameWriter;
    use crate::tests::entries;

    /// What the generated types make of an entry.
    fn plainly(entry: &Entry) -> proto::ShardEntry {
        use proto::shard_command::Command as Proto;
        let mut names = NameWriter::default();
        let commands = entry.commands.iter().map(|command| {
            let command = match command {
                Command::Claim(claim) => Proto::Claim(put_claim(claim, &mut names)),
                Command::Batch(batch) => Proto::Batch(crate::shard::put_batch(batch, &mut names)),
                Command::ExpireRegion(owner) => Proto::ExpireRegion(put_owner(owner)),
                Command::Settled(owner) => Proto::Settled(put_owner(owner)),
                Command::Configure(pacing) => Proto::Configure(put_pacing(pacing)),
                Command::Tick => Proto::Tick(proto::Tick {}),
            };
            let command = Some(command);
            proto::ShardCommand { command }
        });
        let commands = commands.collect();
        proto::ShardEntry {
            format: FORMAT,
            stamp_ms: entry.stamp.0,
            coordinator: entry.coordinator.as_str().to_owned(),
            channels: names.take_fresh(),
            commands,
        }
    }

    proptest! {
        #[test]
        fn an_entry_is_written_as_the_generated_types_write_it(entry in entries()) {
            prop_assert_eq!(&*encode_entry(&entry), &*plainly(&entry).encode_to_vec());
        }

        #[test]
        fn what_is_read_of_a_damaged_entry_is_what_the_generated_types_read(
            entry in entries(),
            changes in proptest::collection::vec(
                (any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode_entry(&entry).to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            // Groups, and messages that come twice, are refused here only.
            if let Ok(read) = decode_entry(&bytes) {
                let decoded = proto::ShardEntry::decode(&*bytes);
                let decoded = decoded.expect("what is read here is an entry");
                let again = decode_entry(&decoded.encode_to_vec());
                prop_assert_eq!(again, Ok(read));
            }
        }
    }
}
