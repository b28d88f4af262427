//! Stories of `testdata/`: an entry per line after `> `, its commands separated by `;`, and below it
//! the events that it causes, which `make scenarios` records anew. The coordinator is in `eu`.
//!
//! | command | what it is |
//! |---|---|
//! | `claim us 1` | an owner takes `us` over under fence 1 |
//! | `batch us 1 3: 2+c 3-d c=2` | its third batch: transitions 2 and 3, and counts of `c` |
//! | `settled us 1` | its adoption is over |
//! | `expire us 1` | the region is dead up to that fence |
//! | `tick` | paced events may be due |
//! | `later 5000` | no command: so many milliseconds pass |

use super::*;

/// Plays a story; returns it with the events that there were.
fn play(story: &str) -> String {
    let mut log = Log::new();
    let mut shown = String::new();
    for line in story.lines() {
        let Some(entry) = line.strip_prefix("> ") else {
            if line.is_empty() || line.starts_with('#') {
                shown.push_str(&format!("{line}\n"));
            }
            continue;
        };
        shown.push_str(&format!("{line}\n"));
        if let Some(millis) = entry.strip_prefix("later ") {
            log.now += millis.parse::<u64>().unwrap();
            continue;
        }
        let commands = entry.split(';').map(command).collect();
        let events = log.apply(commands).logged.events;
        for (logged, line) in events.iter().zip(told(&events)) {
            shown.push_str(&format!("{} {line}\n", logged.event.channel.name));
        }
    }
    shown
}

fn command(text: &str) -> Command {
    let (head, items) = text.split_once(':').unwrap_or((text, ""));
    let words: Vec<&str> = head.split_whitespace().collect();
    let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("{text}"));
    match words[..] {
        ["tick"] => Command::Tick,
        ["claim", region, fence] => claim(region, number(fence)),
        ["settled", region, fence] => Command::Settled(owner(region, number(fence))),
        ["expire", region, fence] => Command::ExpireRegion(owner(region, number(fence))),
        ["batch", region, fence, sequence] => {
            let mut filled = batch(region, number(fence), number(sequence), Vec::new());
            for item in items.split_whitespace() {
                if let Some((channel, count)) = item.split_once('=') {
                    filled.registers.push(Register {
                        channel: key(channel),
                        occupancy: counts(count.parse().unwrap()),
                    });
                } else {
                    let at = item.find(['+', '-']).unwrap_or_else(|| panic!("{text}"));
                    let active = item[at..].starts_with('+');
                    let told = transition(number(&item[..at]), &item[at + 1..], active);
                    filled.transitions.push(told);
                }
            }
            Command::Batch(filled)
        }
        _ => panic!("no such command: {text}"),
    }
}

#[test]
fn scenarios_tell_what_was_recorded() {
    headcount_scenarios::replay(env!("CARGO_MANIFEST_DIR"), play);
}
