//! `headcount events`: what happens to channels, as it happens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headcount_model::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::channels::brief;
use crate::cli::{Connect, Events};
use crate::failure::Failure;
use crate::output::{Output, complain};
use crate::rest::{Reader, Told, ToldEvent, Wanted};

pub(crate) async fn run(command: Events, connect: &Connect, output: Output) -> Result<(), Failure> {
    let Events::Tail {
        prefix,
        kinds,
        cursor,
        cursors,
        limit,
    } = command;
    let reader = Reader::new(&connect.server, connect.key()?)?;
    let mut follower = reader.follow(Wanted { prefix, kinds }, cursor);
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        match follower.next().await? {
            Told::Event(event) => {
                Line::of(&event, follower.cursor()).print(cursors, output)?;
                left -= 1;
            }
            Told::Gap(gap) if output.is_json() => {
                output.json(&json!({ "gap": gap, "cursor": follower.cursor() }))?;
            }
            Told::Gap(gap) => output.line(&format!("-- events are missing: {gap}"))?,
            Told::Broken(reason) => complain(&format!("{reason}; trying again")),
        }
    }
    Ok(())
}

/// An event as it is printed.
#[derive(Serialize)]
pub(crate) struct Line<'a> {
    #[serde(flatten)]
    event: &'a ToldEvent,
    cursor: Option<&'a str>,
}

impl<'a> Line<'a> {
    pub(crate) fn of(event: &'a ToldEvent, cursor: Option<&'a str>) -> Self {
        Self { event, cursor }
    }

    pub(crate) fn print(&self, with_cursor: bool, output: Output) -> Result<(), Failure> {
        output.show(self, |_| {
            let Self { event, cursor } = self;
            let at = UNIX_EPOCH + Duration::from_millis(event.timestamp.0);
            let mut text = format!(
                "{}  {:<23}  {}  [{}]  {}\n",
                humantime::format_rfc3339_millis(at),
                event.name,
                event.data.channel_id,
                event.data.region.as_deref().unwrap_or_default(),
                brief(&event.data),
            );
            if let Some(cursor) = cursor.filter(|_| with_cursor) {
                text.push_str(&format!("  cursor {cursor}\n"));
            }
            text
        })
    }
}

/// Returns how long ago something happened, by the clock on the wall.
pub(crate) fn since(at: Timestamp) -> Duration {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.saturating_sub(Duration::from_millis(at.0))
}
