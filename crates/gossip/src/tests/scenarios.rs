//! Stories of `testdata/`: a verb per line after `> `, and below it what is proposed, which
//! `make scenarios` records anew.
//!
//! `> feed …` feeds what the owner and the log say, in one turn; `> later 50` lets so many
//! milliseconds pass. What can be fed:
//!
//! | item | what it is |
//! |---|---|
//! | `1+c`, `2-c` | the first transition makes `c` active, the second inactive |
//! | `c=2`, `c=0!` | counts of `c`; with `!` a category crossed zero |
//! | `applied:3/2` | the log has applied batch 3 and transition 2 |
//! | `settled`, `path` | the owner's adoption is over; there is another way to the coordinator |

use super::*;

/// Plays a story; returns it with the proposals that there were.
fn play(story: &str) -> String {
    let (outbox, now) = (Outbox::new(Config::default(), claim()), 10);
    let mut world = World { outbox, now };
    let mut told = String::new();
    for line in story.lines() {
        let Some(verb) = line.strip_prefix("> ") else {
            if line.is_empty() || line.starts_with('#') {
                told.push_str(&format!("{line}\n"));
            }
            continue;
        };
        told.push_str(&format!("{line}\n"));
        let (name, rest) = verb.split_once(' ').unwrap_or((verb, ""));
        let inputs = match name {
            "feed" => rest.split_whitespace().map(input).collect(),
            "later" => {
                world.now += rest.parse::<u64>().unwrap();
                Vec::new()
            }
            _ => panic!("no such verb: {verb}"),
        };
        for proposal in world.run(inputs) {
            told.push_str(&format!("{}\n", shown(&proposal)));
        }
    }
    told
}

fn input(word: &str) -> Input {
    match word {
        "settled" => return Input::Settled,
        "path" => return Input::PathChanged,
        _ => {}
    }
    if let Some(mark) = word.strip_prefix("applied:") {
        let (sequence, number) = mark.split_once('/').unwrap();
        return applied(sequence.parse().unwrap(), number.parse().unwrap());
    }
    if let Some((channel, count)) = word.split_once('=') {
        let (count, crossing) = match count.strip_suffix('!') {
            Some(count) => (count, true),
            None => (count, false),
        };
        return register(channel, count.parse().unwrap(), crossing);
    }
    let at = word.find(['+', '-']).unwrap_or_else(|| panic!("{word}"));
    let active = word[at..].starts_with('+');
    transition(word[..at].parse().unwrap(), &word[at + 1..], active)
}

fn shown(proposal: &Proposal) -> String {
    let batch = match proposal {
        Proposal::Claim(_) => return "claim".to_owned(),
        Proposal::Settled(_) => return "settled".to_owned(),
        Proposal::Batch(batch) => batch,
    };
    let mut text = format!("batch {}:", batch.sequence);
    for number in &batch.dropped {
        text.push_str(&format!(" dropped:{number}"));
    }
    for told in &batch.transitions {
        let sign = if told.active { '+' } else { '-' };
        text.push_str(&format!(" {}{sign}{}", told.number, told.channel.name));
    }
    for register in &batch.registers {
        let count = register.occupancy.get(Category::Connections);
        text.push_str(&format!(" {}={count}", register.channel.name));
    }
    text
}

#[test]
fn scenarios_propose_what_was_recorded() {
    headcount_scenarios::replay(env!("CARGO_MANIFEST_DIR"), play);
}
