//! Changes of an input: of its bytes, and of the tree that it holds, if it does.

use serde_json::{Map, Value};

use crate::random::Random;

/// Longest input that mutation makes.
const BYTES_MAX: usize = 64 * 1024;

/// Most changes of one input.
const CHANGES_MAX: usize = 6;

/// Numbers at which something begins or ends.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    15,
    16,
    31,
    127,
    128,
    255,
    65_535,
    65_536,
    u32::MAX as u64,
    i64::MAX as u64,
    u64::MAX,
];

/// Pairs that nest: JSON's, MessagePack's, in which nothing closes, and a field of protobuf.
const NESTS: [(&[u8], &[u8]); 6] = [
    (b"[", b"]"),
    (b"{\"k\":", b"}"),
    (b"\x91", b""),
    (b"\x81\xa1k", b""),
    (b"\x0a\x7f", b""),
    (b"\"", b"\""),
];

/// Pieces of every format: literals, escapes, claims of lengths.
const WORDS: [&[u8]; 24] = [
    b"null",
    b"true",
    b"1e999",
    b"-0.0",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    b"\xf0\x9f\x98\x80",
    b"\xe2\x80\xae",
    b"\xff",
    b"%00",
    b"%",
    b"[meta]",
    b"[?",
    b"*",
    b"\xc0",
    b"\xdb\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xcb\x7f\xf8\0\0\0\0\0\0",
    b"\xd4\x01\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\n",
];

/// Which trees a target's inputs hold, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    None,
    Json,
    MessagePack,
}

/// Changes an input; `other` is another one, from which pieces come.
pub(crate) fn mutate(
    input: &[u8],
    other: &[u8],
    tree: Tree,
    words: &[&str],
    random: &mut Random,
) -> Vec<u8> {
    let mut bytes = match tree {
        Tree::None => input.to_vec(),
        Tree::Json | Tree::MessagePack if random.once_in(2) => {
            match change_tree(input, other, tree, words, random) {
                Some(changed) => return changed,
                None => input.to_vec(),
            }
        }
        Tree::Json | Tree::MessagePack => input.to_vec(),
    };
    for _ in 0..=random.below(CHANGES_MAX) {
        change(&mut bytes, other, words, random);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

/// Makes one change of bytes.
fn change(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = at + random.below((bytes.len() - at).min(64) + 1);
    match random.below(11) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 if at < bytes.len() => {
            let by = random.below(33) as u8;
            bytes[at] = bytes[at].wrapping_add(by).wrapping_sub(16);
        }
        3 => drop(bytes.drain(at..end)),
        4 => bytes.truncate(at),
        5 => {
            // Up to a lot of the same.
            let piece = bytes[at..end].to_vec();
            let times = 1 << random.below(10);
            let room = BYTES_MAX.saturating_sub(bytes.len());
            let piece = piece.repeat(times.min(room / piece.len().max(1)));
            drop(bytes.splice(at..at, piece));
        }
        6 => {
            let from = random.below(other.len() + 1);
            let to = from + random.below(other.len() - from + 1);
            drop(bytes.splice(at..end, other[from..to].iter().copied()));
        }
        7 => {
            let (open, close) = NESTS[random.below(NESTS.len())];
            let doublings = if random.once_in(50) { 14 } else { 6 };
            let depth = 1 << random.below(doublings);
            let inner = [&open.repeat(depth), &bytes[at..end], &close.repeat(depth)].concat();
            drop(bytes.splice(at..end, inner));
        }
        8 => change_number(bytes, at, random),
        9 => drop(bytes.splice(at..end, random.choose(&WORDS).iter().copied())),
        _ if words.is_empty() => {}
        _ => drop(bytes.splice(at..end, random.choose(words).bytes())),
    }
}

/// Writes another number at a place: over its digits, or as bytes of either order.
fn change_number(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let number = NUMBERS[random.below(NUMBERS.len())];
    let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let digits = digits.count();
    if digits > 0 {
        drop(bytes.splice(at..at + digits, number.to_string().into_bytes()));
        return;
    }
    let width = 1 << random.below(4);
    let raw = if random.once_in(2) {
        number.to_be_bytes()[8 - width..].to_vec()
    } else {
        number.to_le_bytes()[..width].to_vec()
    };
    let end = bytes.len().min(at + width);
    drop(bytes.splice(at..end, raw));
}

/// Changes one node of the tree; `None` if there is no tree.
fn change_tree(
    input: &[u8],
    other: &[u8],
    tree: Tree,
    words: &[&str],
    random: &mut Random,
) -> Option<Vec<u8>> {
    let read = |bytes: &[u8]| -> Option<Value> {
        match tree {
            Tree::None => None,
            Tree::Json => serde_json::from_slice(bytes).ok(),
            Tree::MessagePack => rmp_serde::from_slice(bytes).ok(),
        }
    };
    let mut value = read(input)?;
    let other = read(other).unwrap_or_default();
    for _ in 0..=random.below(3) {
        let (place, donor) = (random.below(count(&value)), random.below(count(&other)));
        let donor = nth(&other, &mut { donor }).cloned().unwrap_or_default();
        let node = nth_mut(&mut value, &mut { place })?;
        change_node(node, donor, words, random);
    }
    let bytes = match tree {
        Tree::None => return None,
        Tree::Json => value.to_string().into_bytes(),
        Tree::MessagePack => rmp_serde::to_vec_named(&value).ok()?,
    };
    (bytes.len() <= BYTES_MAX).then_some(bytes)
}

fn change_node(node: &mut Value, donor: Value, words: &[&str], random: &mut Random) {
    let word = |random: &mut Random| {
        if words.is_empty() {
            String::new()
        } else {
            random.choose(words).to_owned()
        }
    };
    match (random.below(8), &mut *node) {
        (0, Value::Object(fields)) => {
            let name = word(random);
            fields.insert(name, donor);
        }
        (1, Value::Object(fields)) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            if let Some(name) = names.get(random.below(names.len().max(1))) {
                fields.remove(name);
            }
        }
        (2, Value::Object(fields)) => {
            // The same value under another name.
            let (name, other) = (word(random), fields.values().next().cloned());
            fields.insert(name, other.unwrap_or_default());
        }
        (0 | 1, Value::Array(items)) => items.push(donor),
        (2, Value::Array(items)) => {
            let again = items.first().cloned().unwrap_or_default();
            let times = 1 << random.below(11);
            items.extend(std::iter::repeat_n(again, times));
        }
        (3, Value::String(text)) => *text = text.repeat(1 << random.below(12)),
        (3, Value::Number(number)) => {
            let by = random.below(5) as i64 - 2;
            *node = number.as_i64().unwrap_or_default().wrapping_add(by).into();
        }
        (4, _) => *node = NUMBERS[random.below(NUMBERS.len())].into(),
        (5, _) => *node = word(random).into(),
        (6, _) => {
            let inner = std::mem::take(node);
            *node = if random.once_in(2) {
                Value::Array(vec![inner])
            } else {
                Value::Object(Map::from_iter([(word(random), inner)]))
            };
        }
        _ => *node = donor,
    }
}

/// How many nodes a tree has.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// The node at a place, counted from the root.
fn nth<'a>(value: &'a Value, place: &mut usize) -> Option<&'a Value> {
    if *place == 0 {
        return Some(value);
    }
    *place -= 1;
    match value {
        Value::Array(items) => items.iter().find_map(|item| nth(item, place)),
        Value::Object(fields) => fields.values().find_map(|field| nth(field, place)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn nth_mut<'a>(value: &'a mut Value, place: &mut usize) -> Option<&'a mut Value> {
    if *place == 0 {
        return Some(value);
    }
    *place -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth_mut(item, place)),
        Value::Object(fields) => fields.values_mut().find_map(|field| nth_mut(field, place)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
