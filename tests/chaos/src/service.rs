//! Service: requests are answered by whoever is not struck, also while others are (C15), and once
//! peace is there, by all, and events come in time (C8).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use headcount_checker::At;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, wait_until};
use crate::composed::staying;
use crate::edges::{self, Session};
use crate::nemesis::pass;
use crate::readers;
use crate::record::Record;

/// Within which a request must be answered: a read as a node has it, or a report. Neither waits for
/// another region.
pub(crate) const ANSWER: Duration = Duration::from_secs(4);

/// Within which an attach must be told as opened where nothing is broken, 99 of 100: twice the two
/// round trips that it takes to the farthest coordinator, through its commit, and back.
const OPENED: Duration = Duration::from_secs(1);

/// How many times as long as a strong read it may take where that is more. A read that is asked at
/// the same moment goes the same way: to the coordinator, which asks a majority, and back. On a
/// machine that stands still for a moment, both are late.
const BESIDE_READS: u32 = 2;

/// How long requests go on once everything is right again.
const PEACE: Duration = Duration::from_secs(10);

/// Pauses between probes, and between rounds of reads.
const PROBES: Duration = Duration::from_millis(200);
const READS: Duration = Duration::from_millis(100);

/// Longest wait for events of what was attached.
const PATIENCE: Duration = Duration::from_secs(60);

/// Outage: processes of these regions were struck, and may be felt to have been. A region of which
/// only ways were broken answers and takes reports as before.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    /// The regions by their index; none if only ways were broken.
    pub(crate) regions: BTreeSet<usize>,
    /// When it was struck.
    pub(crate) from: At,
    /// When its effects must have been over.
    pub(crate) to: At,
}

/// Missed: a request to a region that was not answered in time.
#[derive(Clone, Debug)]
pub(crate) struct Missed {
    /// What, for people.
    pub(crate) what: String,
    /// The region's index.
    pub(crate) region: usize,
    /// When it was asked.
    pub(crate) from: At,
    /// When it was answered, or given up.
    pub(crate) to: At,
}

/// Returns what was missed although no process of the region was struck at the time.
pub(crate) fn unexcused(missed: &[Missed], outages: &[Outage]) -> Vec<String> {
    let excuses = |missed: &Missed, outage: &Outage| {
        let meanwhile = outage.from <= missed.to && missed.from <= outage.to;
        meanwhile && outage.regions.contains(&missed.region)
    };
    let missed = missed
        .iter()
        .filter(|missed| !outages.iter().any(|outage| excuses(missed, outage)));
    missed
        .map(|missed| {
            let Missed { what, from, to, .. } = missed;
            format!("C15 availability: {what} from {from:?} to {to:?}, and its region was whole")
        })
        .collect()
}

/// Delays of many things of a kind, the shortest first.
#[derive(Clone, Debug)]
pub(crate) struct Delays(Vec<Duration>);

impl Delays {
    fn of(mut delays: Vec<Duration>) -> Self {
        delays.sort_unstable();
        Self(delays)
    }

    /// Returns what 99 of 100 do not exceed.
    pub(crate) fn p99(&self) -> Duration {
        let p99 = self.0.get(self.0.len() * 99 / 100);
        p99.copied().unwrap_or_default()
    }

    /// Returns the longest.
    pub(crate) fn most(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

/// Waits until a watcher was told of every probe that it opened; returns how long after each was due
/// that was.
pub(crate) async fn opened_within(
    record: &Record,
    watcher: &str,
    asked: &[(String, At)],
) -> Result<Delays> {
    // All of them: shards have no order among them.
    let why = format!("{watcher}: every probe is told");
    wait_until(why, PATIENCE, async || {
        let inner = record.write();
        let opened = inner.opened(watcher);
        let delay = |(channel, due): &(String, At)| match opened.get(channel.as_str()) {
            Some(told) => Ok(told.saturating_sub(*due)),
            None => Err(format!("{channel} is not open")),
        };
        let delays = asked.iter().map(delay).collect::<Result<_, _>>();
        delays.map(Delays::of)
    })
    .await
}

/// Asks a node strongly about one channel after the other, at a pace that no answer holds up, until
/// told to stop; returns how long after each was due it was answered, and what was not.
pub(crate) async fn read_strongly(
    cluster: Arc<Cluster>,
    node: usize,
    channels: Vec<String>,
    pace: Duration,
    stop: watch::Receiver<bool>,
) -> Result<(Vec<Duration>, Vec<String>)> {
    let mut ticks = tokio::time::interval(pace);
    let mut asking = JoinSet::new();
    for channel in channels.into_iter().cycle() {
        let due = ticks.tick().await;
        if *stop.borrow() {
            break;
        }
        let cluster = cluster.clone();
        asking.spawn(async move {
            let answer = readers::ask(&cluster, node, &channel, true).await;
            let unanswered = |why| {
                format!("C15 availability: node {node} does not tell {channel} strongly: {why:#}")
            };
            answer.map(|_| due.elapsed()).map_err(unanswered)
        });
    }
    let (mut delays, mut wrong) = (Vec::new(), Vec::new());
    while let Some(asked) = asking.join_next().await {
        match asked? {
            Ok(delay) => delays.push(delay),
            Err(why) => wrong.push(why),
        }
    }
    Ok((delays, wrong))
}

/// Reads from all nodes, weakly and strongly, and attaches in all regions, while nothing is broken;
/// returns what was not answered or told in time, and the sessions that keep what was attached.
pub(crate) async fn in_peace(
    cluster: &Arc<Cluster>,
    record: &Arc<Record>,
    channels: &[String],
    slack: f64,
) -> Result<(Vec<Session>, Vec<String>)> {
    let regions = cluster.plan.regions.len();
    let (stop, stopped) = watch::channel(false);
    let (mut probing, mut reading) = (JoinSet::new(), JoinSet::new());
    for region in 0..regions {
        let nodes = cluster.of_region(region);
        let session = Session::begin(cluster, record, &format!("peace-{region}"), 1, &nodes)?;
        let name = format!("peace:{region}");
        probing.spawn(edges::probe(session, name, PROBES, stopped.clone()));
        let (cluster, channels) = (cluster.clone(), channels.to_vec());
        let stopped = stopped.clone();
        reading.spawn(read_strongly(cluster, nodes[0], channels, PROBES, stopped));
    }
    let mut wrong = read_all(cluster, record, channels).await;
    stop.send_replace(true);
    let (mut sessions, mut asked) = (Vec::new(), Vec::new());
    while let Some(probed) = probing.join_next().await {
        match probed? {
            Ok((session, probes)) => {
                sessions.push(session);
                asked.extend(probes);
            }
            Err(why) => wrong.push(format!("C15 availability: {why:#}")),
        }
    }
    let mut reads = Vec::new();
    while let Some(read) = reading.join_next().await {
        let (delays, unanswered) = read??;
        reads.extend(delays);
        wrong.extend(unanswered);
    }
    let judged = [
        ("openings in peace", asked.len() as u64),
        ("strong reads beside openings", reads.len() as u64),
    ];
    record.write().counts.extend(judged);
    let reads = Delays::of(reads).p99();
    let bound = OPENED.mul_f64(slack).max(reads * BESIDE_READS);
    for region in 0..regions {
        let watcher = staying(cluster, region);
        match opened_within(record, &watcher, &asked).await {
            Ok(delays) => {
                let (p99, most) = (delays.p99(), delays.most());
                let told = format!(
                    "{watcher} was told of attaches after {p99:?} (p99), {most:?} (most), in peace; \
                     strong reads took {reads:?} (p99)"
                );
                if p99 > bound {
                    wrong.push(format!("C8 staleness: {told}, bound {bound:?}"));
                }
                record.say(told);
            }
            Err(late) => wrong.push(format!("C8 staleness: {late}")),
        }
    }
    Ok((sessions, wrong))
}

/// Reads some channels from all nodes for a while; returns what was not answered.
async fn read_all(cluster: &Cluster, record: &Record, channels: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let begun = Instant::now();
    let nodes = 0..cluster.nodes.len();
    let asks: Vec<(usize, bool)> = nodes
        .flat_map(|node| [(node, false), (node, true)])
        .collect();
    for channel in channels.iter().cycle() {
        let answers = asks
            .iter()
            .map(|(node, strong)| readers::ask(cluster, *node, channel, *strong));
        let answers = futures::future::join_all(answers).await;
        for ((node, strong), answer) in asks.iter().zip(answers) {
            record.count("reads in peace");
            if let Err(why) = answer {
                let how = if *strong { "strongly" } else { "as it is" };
                wrong.push(format!(
                    "C15 availability: node {node} does not tell {channel} {how}: {why:#}"
                ));
            }
        }
        if begun.elapsed() > PEACE {
            break;
        }
        pass(READS).await;
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn missed(region: usize, from: u32, to: u32) -> Missed {
        Missed {
            what: "a read".to_owned(),
            region,
            from: SECOND * from,
            to: SECOND * to,
        }
    }

    #[test]
    fn only_what_struck_the_region_itself_excuses_it() {
        let outage = Outage {
            regions: BTreeSet::from([1, 2]),
            from: SECOND * 10,
            to: SECOND * 20,
        };
        let unexcused = |missed| unexcused(&[missed], std::slice::from_ref(&outage)).len();
        assert_eq!(unexcused(missed(1, 8, 10)), 0, "it began before");
        assert_eq!(unexcused(missed(2, 20, 24)), 0, "it ended after");
        assert_eq!(unexcused(missed(0, 12, 16)), 1, "another region was struck");
        assert_eq!(unexcused(missed(1, 5, 9)), 1, "it was over before");
        assert_eq!(unexcused(missed(1, 21, 25)), 1, "all was well again");
    }

    #[test]
    fn one_of_a_hundred_delays_may_be_longer() {
        let delays = |late: u32| {
            let of = |number| if number < late { SECOND * 9 } else { SECOND };
            Delays::of((0..200).map(of).collect())
        };
        assert_eq!((delays(0).p99(), delays(0).most()), (SECOND, SECOND));
        assert_eq!((delays(1).p99(), delays(1).most()), (SECOND, SECOND * 9));
        assert_eq!(delays(2).p99(), SECOND * 9);
    }
}
