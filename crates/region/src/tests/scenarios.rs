//! Stories of `testdata/`: a verb per line after `> `, and below it the effects, which
//! `make scenarios` records anew.
//!
//! | verb | what happens |
//! |---|---|
//! | `gateways 1 2.3` | the region's nodes with a lease: node 1, and node 2 in its third life |
//! | `claim c=2 d=1` | the claim applies on this base |
//! | `say 1 e.1:c=2 …` | node 1 says items: edge `e` has two on `c` in session 1 |
//! | `again 1 e.1:c=2 …` | as `say`, from the beginning of another stream |
//! | `later 5000` | so many milliseconds pass |
//!
//! Further items are `e.1:end` for the end of a session, `active:c` for activity, `complete`,
//! `recovered`.

use super::*;

/// Plays a story; returns it with the effects that there were.
fn play(story: &str) -> String {
    let mut world = World::claiming();
    let mut streams: BTreeMap<u64, u64> = BTreeMap::new();
    let mut told = String::new();
    for line in story.lines() {
        let Some(verb) = line.strip_prefix("> ") else {
            if line.is_empty() || line.starts_with('#') {
                told.push_str(&format!("{line}\n"));
            }
            continue;
        };
        told.push_str(&format!("{line}\n"));
        for effect in act(&mut world, &mut streams, verb) {
            told.push_str(&format!("{effect}\n"));
        }
    }
    told
}

fn act(world: &mut World, streams: &mut BTreeMap<u64, u64>, verb: &str) -> Vec<String> {
    let mut words = verb.split_whitespace();
    let name = words.next().unwrap();
    let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("{verb}"));
    match name {
        "gateways" => {
            let live = words.map(|word| {
                let (node, life) = word.split_once('.').unwrap_or((word, "1"));
                (NodeId(number(node)), Incarnation(number(life)))
            });
            let live = live.collect();
            world.step(Input::Gateways { live })
        }
        "claim" => {
            let base: Vec<_> = words.map(|word| count_of(word).unwrap()).collect();
            world.claim(&base)
        }
        "say" | "again" => {
            let node = number(words.next().unwrap());
            let stream = streams.entry(node).or_insert(1);
            *stream += u64::from(name == "again");
            let (life, stream) = (1, *stream);
            let items = words.map(item).collect();
            world.say_as(node, life, stream, items)
        }
        "later" => world.later(number(words.next().unwrap())),
        _ => panic!("no such verb: {verb}"),
    }
}

fn count_of(word: &str) -> Option<(&str, u32)> {
    let (channel, count) = word.split_once('=')?;
    Some((channel, count.parse().ok()?))
}

fn item(word: &str) -> GatewayItem {
    match word {
        "complete" => return GatewayItem::StreamComplete,
        "recovered" => return GatewayItem::Recovered,
        _ => {}
    }
    let (whose, what) = word.split_once(':').unwrap_or_else(|| panic!("{word}"));
    if whose == "active" {
        return GatewayItem::Activity(key(what));
    }
    let (edge, number) = whose.split_once('.').unwrap_or_else(|| panic!("{word}"));
    let source = session(edge, number.parse().unwrap());
    match count_of(what) {
        Some((channel, count)) => register(&source, channel, count),
        None if what == "end" => GatewayItem::SourceEnded(source),
        None => panic!("no such item: {word}"),
    }
}

#[test]
fn scenarios_have_the_effects_that_were_recorded() {
    headcount_scenarios::replay(env!("CARGO_MANIFEST_DIR"), play);
}
