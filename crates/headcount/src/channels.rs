//! `headcount channels`: who is on channels now.

use headcount_model::{Category, ChannelDetails};
use serde_json::json;

use crate::cli::{Channels, Connect};
use crate::events::Line;
use crate::failure::Failure;
use crate::output::{Output, complain, table};
use crate::rest::{Freshness, Reader, Told, Wanted, list_query};

/// Channels asked for at once: the most that a node gives.
const PAGE: usize = 1_000;

pub(crate) async fn run(
    command: Channels,
    connect: &Connect,
    output: Output,
) -> Result<(), Failure> {
    let reader = Reader::new(&connect.server, connect.key()?)?;
    match command {
        Channels::List {
            prefix,
            limit,
            counts,
        } => {
            list(
                &reader,
                &prefix,
                limit.unwrap_or(usize::MAX),
                counts,
                output,
            )
            .await
        }
        Channels::Get { channel, strong } => {
            let (details, freshness) = reader.status(&channel, strong).await?;
            show(&details, &freshness, output)
        }
        Channels::Watch { channel } => watch(reader, &channel, output).await,
    }
}

async fn list(
    reader: &Reader,
    prefix: &str,
    limit: usize,
    counts: bool,
    output: Output,
) -> Result<(), Failure> {
    let by = if counts { "value" } else { "id" };
    let mut query = Some(list_query(prefix, by, limit.clamp(1, PAGE)));
    let mut left = limit;
    while let Some(this) = query.take().filter(|_| left > 0) {
        if counts {
            let page = reader.list::<ChannelDetails>(&this).await?;
            for details in page.items.iter().take(left) {
                let tell = |details: &ChannelDetails| {
                    format!("{}  {}\n", details.channel_id, brief(details))
                };
                output.show(details, tell)?;
            }
            left -= page.items.len().min(left);
            query = page.next;
        } else {
            let page = reader.list::<String>(&this).await?;
            for name in page.items.iter().take(left) {
                output.show(name, |name| format!("{name}\n"))?;
            }
            left -= page.items.len().min(left);
            query = page.next;
        }
    }
    Ok(())
}

fn show(details: &ChannelDetails, freshness: &Freshness, output: Output) -> Result<(), Failure> {
    let document = json!({ "channel": details, "freshness": freshness });
    output.show(&document, |_| {
        let state = if details.status.is_active {
            "active"
        } else {
            "inactive"
        };
        let coordinator = details.region.as_deref().unwrap_or("unknown");
        let rows = Category::ALL.map(|category| {
            let count = details.status.occupancy.metrics.get(category);
            [category.as_str().to_owned(), count.to_string()]
        });
        let mut text = format!(
            "{} is {state}; coordinated in {coordinator}\n{}",
            details.channel_id,
            table(["", "count"], &rows)
        );
        text.push_str(&format!(
            "\nsaid by {}, {} ms old\n",
            freshness.source, freshness.age_ms
        ));
        if !freshness.unheard_regions.is_empty() {
            let regions = freshness.unheard_regions.join(", ");
            text.push_str(&format!(
                "not heard from: {regions}; their share may be out of date\n"
            ));
        }
        text
    })
}

async fn watch(reader: Reader, channel: &str, output: Output) -> Result<(), Failure> {
    let wanted = Wanted {
        prefix: channel.to_owned(),
        ..Wanted::default()
    };
    let mut follower = reader.clone().follow(wanted, None);
    // Before the state is read, so that what happens meanwhile is told rather than missed.
    follower.open().await?;
    let (details, freshness) = reader.status(channel, false).await?;
    show(&details, &freshness, output)?;
    loop {
        match follower.next().await? {
            Told::Event(event) if event.data.channel_id == channel => {
                Line::of(&event, follower.cursor()).print(false, output)?;
            }
            Told::Event(_) => {}
            Told::Gap(_) => {
                complain("events are missing; the state now is:");
                let (details, freshness) = reader.status(channel, false).await?;
                show(&details, &freshness, output)?;
            }
            Told::Broken(reason) => complain(&format!("{reason}; trying again")),
        }
    }
}

/// Says a channel's counts in a few words: those that are not zero.
pub(crate) fn brief(details: &ChannelDetails) -> String {
    let counts = Category::ALL.map(|category| {
        let count = details.status.occupancy.metrics.get(category);
        (count > 0).then(|| format!("{} {count}", category.as_str()))
    });
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    if counts.is_empty() {
        "nobody".to_owned()
    } else {
        counts.join(", ")
    }
}
