//! The ledger: what was really attached, and from when to when it may have counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use headcount_model::{EventId, EventKind, Occupancy, ReportItem};

use crate::spans::NEVER;
use crate::{At, ChannelState, Fault, History, Rule, Spans, Told};

mod books;

use books::Books;

/// Source: an edge's session, as its server knows it: the edge and how often it was started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The edge's name.
    pub edge: String,
    /// Its incarnation.
    pub incarnation: u64,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.edge, self.incarnation)
    }
}

/// Allowance: how long things may take where nothing is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// From an acknowledgement until every replica answers with it (δ).
    pub propagation: Duration,
    /// From the end of a session that said no goodbye until it counts nowhere, without `propagation`:
    /// the grace if its node lives, the lease if not, so the longer of both.
    pub departure: Duration,
}

/// Ticket: changes that a session reported together, to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// Sample: what a reader was told of a channel, from whatever replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Who answered.
    pub node: String,
    /// Of what.
    pub channel: String,
    /// The oldest moment that the answer may speak of: when it was asked, less the age that it
    /// admits.
    pub from: At,
    /// When it came.
    pub to: At,
    /// What it said.
    pub occupancy: Occupancy,
}

/// Presence: whether something is on a channel, as far as the ledger can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Nothing can be there.
    MustBeAbsent,
    /// Something may be there; a change is under way, or something is broken.
    MayBePresent,
    /// Something is there.
    MustBePresent,
}

/// What one source counted on one channel from a moment on.
#[derive(Clone, Copy, Debug)]
struct Value {
    occupancy: Occupancy,
    /// From when it may count.
    invoked: At,
    /// When a node said that it counts; what was before may still be seen for the propagation.
    acked: Option<At>,
}

#[derive(Debug)]
struct Session {
    region: String,
    books: Books,
    /// By channel, in order; the first is zero, from the beginning.
    tracks: BTreeMap<String, Vec<Value>>,
    ended: Option<At>,
}

/// Ledger: what every session attached, and what was broken meanwhile.
#[derive(Debug)]
pub struct Ledger {
    allowance: Allowance,
    sessions: BTreeMap<Source, Session>,
    /// What waits for its acknowledgement: which values of which tracks.
    tickets: BTreeMap<Ticket, (Source, Vec<(String, usize)>)>,
    tickets_given: u64,
    late: Spans,
    /// By channel, when every replica was seen to answer with what is attached.
    proofs: BTreeMap<String, BTreeSet<At>>,
    voids: BTreeMap<String, Spans>,
}

impl Ledger {
    /// Starts a ledger with nothing in it.
    #[must_use]
    pub fn new(allowance: Allowance) -> Self {
        Self {
            allowance,
            sessions: BTreeMap::new(),
            tickets: BTreeMap::new(),
            tickets_given: 0,
            late: Spans::default(),
            proofs: BTreeMap::new(),
            voids: BTreeMap::new(),
        }
    }

    /// Notes that a session begins in a region.
    ///
    /// # Panics
    /// If it began before.
    pub fn begin(&mut self, source: Source, region: &str) {
        let session = Session {
            region: region.to_owned(),
            books: Books::default(),
            tracks: BTreeMap::new(),
            ended: None,
        };
        let known = self.sessions.insert(source, session);
        assert!(known.is_none(), "a session begins once");
    }

    /// Notes that a session is about to report `items`; they may count from now on.
    ///
    /// # Panics
    /// If the session did not begin or has ended.
    pub fn report(&mut self, source: &Source, at: At, items: &[ReportItem]) -> Ticket {
        let session = self.sessions.get_mut(source).expect("a session begins");
        assert!(session.ended.is_none(), "{source} has ended");
        let mut changed = Vec::new();
        for (channel, occupancy) in session.books.report(items) {
            let track = session.tracks.entry(channel.clone()).or_insert_with(start);
            track.push(Value {
                occupancy,
                invoked: at,
                acked: None,
            });
            changed.push((channel, track.len() - 1));
        }
        let ticket = Ticket(self.tickets_given);
        self.tickets_given += 1;
        self.tickets.insert(ticket, (source.clone(), changed));
        ticket
    }

    /// Notes that a node said that it counts what was reported.
    pub fn acked(&mut self, ticket: Ticket, at: At) {
        let Some((source, changed)) = self.tickets.remove(&ticket) else {
            return;
        };
        let session = self.sessions.get_mut(&source).expect("a session stays");
        for (channel, index) in changed {
            let track = session.tracks.get_mut(&channel).expect("a track stays");
            track[index].acked = Some(at);
        }
    }

    /// Notes that a session was killed: it may stop counting now, and must after the departure.
    ///
    /// # Panics
    /// If it never began.
    pub fn killed(&mut self, source: &Source, at: At) {
        self.goodbye(source, at);
        self.left(source, at + self.allowance.departure);
    }

    /// Notes that a session is about to say goodbye: it may stop counting now, and must once that
    /// is answered, see [`Ledger::left`], or once it is [`Ledger::killed`].
    ///
    /// # Panics
    /// If it never began.
    pub fn goodbye(&mut self, source: &Source, at: At) {
        let session = self.sessions.get_mut(source).expect("a session begins");
        if session.ended.is_some() {
            return;
        }
        session.ended = Some(at);
        for track in session.tracks.values_mut() {
            track.push(Value {
                occupancy: Occupancy::ZERO,
                invoked: at,
                acked: None,
            });
        }
        // Whatever it reported and nobody acknowledged is over as well.
        self.tickets.retain(|_, (of, _)| of != source);
    }

    /// Notes that a session's goodbye was answered.
    ///
    /// # Panics
    /// If it never began.
    pub fn left(&mut self, source: &Source, at: At) {
        let session = self.sessions.get_mut(source).expect("a session begins");
        let last = session
            .tracks
            .values_mut()
            .filter_map(|track| track.last_mut());
        for last in last.filter(|_| session.ended.is_some()) {
            last.acked = last.acked.or(Some(at));
        }
    }

    /// Notes that something was broken, so that what happened may be seen late.
    pub fn late(&mut self, from: At, to: At) {
        self.late = self.late.or(&Spans::new([(from, to)]));
    }

    /// Notes that every replica was seen to answer with exactly what is attached to a channel, so
    /// that nothing older is seen again, whatever breaks from now on.
    pub fn proved(&mut self, channel: &str, at: At) {
        self.proofs
            .entry(channel.to_owned())
            .or_default()
            .insert(at);
    }

    /// Notes that a region's contributions may be taken away: it was cut off, or its nodes were
    /// down, for as long as a lease may take to run out.
    pub fn may_void(&mut self, region: &str, from: At, to: At) {
        let spans = self.voids.entry(region.to_owned()).or_default();
        *spans = spans.or(&Spans::new([(from, to)]));
    }

    /// Returns when what happened at `at` is seen everywhere: after the propagation, counted from
    /// the end of whatever was broken meanwhile, or when that was proved.
    #[must_use]
    pub fn settled(&self, channel: &str, at: At) -> At {
        let mut end = at.saturating_add(self.allowance.propagation);
        for (from, to) in self.late.spans() {
            if *to >= at && *from <= end {
                end = end.max(to.saturating_add(self.allowance.propagation));
            }
        }
        let proofs = self.proofs.get(channel);
        let proved = proofs.and_then(|proofs| proofs.range(at..).next());
        proved.map_or(end, |proved| end.min(*proved))
    }

    /// Returns the values of a track, the last first, each with the last moment at which it may be
    /// seen: whichever later one was acknowledged first has replaced it.
    fn visible<'a>(
        &'a self,
        channel: &'a str,
        track: &'a [Value],
    ) -> impl Iterator<Item = (Value, At)> + 'a {
        let mut until = NEVER;
        track.iter().rev().map(move |value| {
            let seen = (*value, until);
            if let Some(acked) = value.acked {
                until = until.min(self.settled(channel, acked));
            }
            seen
        })
    }

    /// Returns when a track may be seen with something, or with nothing.
    fn seen(&self, channel: &str, track: &[Value], nothing: bool) -> Spans {
        let values = self
            .visible(channel, track)
            .filter(|(value, _)| value.occupancy.is_zero() == nothing);
        Spans::new(values.map(|(value, until)| (value.invoked, until)))
    }

    /// Returns when a region's contributions to a channel may be seen as nothing although they are something.
    #[must_use]
    pub fn voided(&self, channel: &str, region: &str) -> Spans {
        let windows = self.voids.get(region).map_or(&[][..], Spans::spans);
        Spans::new(
            windows
                .iter()
                .map(|(from, to)| (*from, self.settled(channel, *to))),
        )
    }

    fn tracks<'a>(
        &'a self,
        channel: &'a str,
        region: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Session, &'a [Value])> + 'a {
        let sessions = self.sessions.values();
        let here = sessions.filter(move |of| region.is_none_or(|region| of.region == region));
        here.filter_map(move |of| Some((of, of.tracks.get(channel)?.as_slice())))
    }

    /// Returns the least and the most that may be counted of a channel, in a region or everywhere,
    /// at any moment from `from` to `to`.
    #[must_use]
    pub fn bounds(
        &self,
        channel: &str,
        region: Option<&str>,
        from: At,
        to: At,
    ) -> (Occupancy, Occupancy) {
        let (mut least, mut most) = (Occupancy::ZERO, Occupancy::ZERO);
        for (session, track) in self.tracks(channel, region) {
            let voided = self.voided(channel, &session.region).overlaps(from, to);
            let mut range: Option<(Occupancy, Occupancy)> = voided.then_some(Default::default());
            let seen = self.visible(channel, track);
            let seen = seen.filter(|(value, until)| value.invoked <= to && *until >= from);
            for (
                Value {
                    occupancy: counts, ..
                },
                _,
            ) in seen
            {
                let (low, high) = range.unwrap_or((counts, counts));
                range = Some((lower(low, counts), high.max(counts)));
            }
            let (low, high) = range.unwrap_or_default();
            least = least.plus(low);
            most = most.plus(high);
        }
        (least, most)
    }

    /// Returns when something may be on a channel, in a region or everywhere.
    #[must_use]
    pub fn may_be_present(&self, channel: &str, region: Option<&str>) -> Spans {
        let tracks = self.tracks(channel, region);
        tracks.fold(Spans::default(), |spans, (_, track)| {
            spans.or(&self.seen(channel, track, false))
        })
    }

    /// Returns when a channel may be seen with nothing on it, in a region or everywhere.
    #[must_use]
    pub fn may_be_absent(&self, channel: &str, region: Option<&str>) -> Spans {
        let mut absent = Spans::always();
        for (session, track) in self.tracks(channel, region) {
            let nothing = self
                .seen(channel, track, true)
                .or(&self.voided(channel, &session.region));
            absent = absent.and(&nothing);
        }
        absent
    }

    /// Returns whether something is on a channel at a moment.
    #[must_use]
    pub fn presence(&self, channel: &str, region: Option<&str>, at: At) -> Presence {
        if !self.may_be_absent(channel, region).contains(at) {
            Presence::MustBePresent
        } else if self.may_be_present(channel, region).contains(at) {
            Presence::MayBePresent
        } else {
            Presence::MustBeAbsent
        }
    }

    /// Judges an answer: is it between the least and the most that may be counted?
    #[must_use]
    pub fn judge(&self, sample: &Sample) -> Option<Fault> {
        let Sample {
            channel,
            node,
            from,
            to,
            occupancy,
        } = sample;
        let (least, most) = self.bounds(channel, None, *from, *to);
        let says = |rule, bound: Occupancy, what| {
            Fault::new(
                rule,
                format!(
                    "{node} says {occupancy:?} of {channel} between {from:?} and {to:?}, \
                     {what} {bound:?}"
                ),
            )
        };
        if !fits(least, *occupancy) {
            return Some(says(Rule::NoFalseVoid, least, "but there are at least"));
        }
        if fits(*occupancy, most) {
            return None;
        }
        // With those who have left it would be right: they are ghosts.
        let left = self
            .tracks(channel, None)
            .filter(|(session, _)| session.ended.is_some());
        let ghosts: Occupancy = left.map(|(_, track)| largest(track)).sum();
        let rule = if fits(*occupancy, most.plus(ghosts)) {
            Rule::NoGhosts
        } else {
            Rule::Conservation
        };
        Some(says(rule, most, "but there are at most"))
    }

    /// Judges a watcher's transitions: each needs a moment before it was told at which it was true
    /// or may have been, these moments must be in the order of the events, and each needs a source
    /// that came, or left, before it was told, unless something was taken away. What takes a
    /// transition back that never was logged (R3) gives its cause back. `heard` says when each event
    /// was told first to anybody.
    #[must_use]
    pub fn justify(&self, history: &History, heard: &BTreeMap<String, At>) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut causes: BTreeMap<(&str, Option<&str>), Causes> = BTreeMap::new();
        for told in history.events() {
            let Some(active) = transition(told) else {
                continue;
            };
            let region = told.kind.is_regional().then_some(told.region.as_str());
            let causes = causes.entry((&told.channel, region));
            let causes = causes.or_insert_with(|| self.causes(&told.channel, region));
            if matches!(told.id.parse(), Ok(EventId::Void { .. })) {
                causes.give_back(!active);
                continue;
            }
            let until = heard.get(&told.id).copied().unwrap_or_default();
            let last = causes.last;
            if !causes.take(active, until) {
                let what = format!("nothing from {last:?} to {until:?} caused this: {told}");
                faults.push(Fault::new(Rule::Justification, what));
            }
        }
        faults
    }

    fn causes(&self, channel: &str, region: Option<&str>) -> Causes {
        let (mut came, mut gone) = (Vec::new(), Vec::new());
        let mut taken = false;
        for (session, track) in self.tracks(channel, region) {
            taken |= self.voids.contains_key(&session.region);
            for (was, is) in track.iter().zip(&track[1..]) {
                match (was.occupancy.is_zero(), is.occupancy.is_zero()) {
                    (true, false) => came.push(is.invoked),
                    (false, true) => gone.push(is.invoked),
                    (true, true) | (false, false) => {}
                }
            }
        }
        came.sort_unstable();
        gone.sort_unstable();
        Causes {
            present: self.may_be_present(channel, region),
            absent: self.may_be_absent(channel, region),
            last: At::ZERO,
            changes: (!taken).then_some([(gone, 0), (came, 0)]),
        }
    }

    /// Returns what is attached after everything was reported, by channel and region, zeros left
    /// out.
    ///
    /// # Errors
    /// How many reports nobody acknowledged: what counts is not known then.
    pub fn attached(&self) -> Result<BTreeMap<String, BTreeMap<String, Occupancy>>, String> {
        if let Some((source, changed)) = self.tickets.values().next() {
            let waiting = self.tickets.len();
            return Err(format!(
                "{waiting} unacknowledged reports, as of {source}: {changed:?}"
            ));
        }
        let mut attached: BTreeMap<String, BTreeMap<String, Occupancy>> = BTreeMap::new();
        for session in self.sessions.values() {
            for (channel, track) in &session.tracks {
                let counts = track.last().map_or(Occupancy::ZERO, |last| last.occupancy);
                if !counts.is_zero() {
                    let regions = attached.entry(channel.clone()).or_default();
                    let sum = regions.entry(session.region.clone()).or_default();
                    *sum = sum.plus(counts);
                }
            }
        }
        Ok(attached)
    }

    /// Judges what a node lists once everything has healed: exactly what is attached.
    #[must_use]
    pub fn converged(&self, node: &str, listed: &BTreeMap<String, Occupancy>) -> Option<Fault> {
        let fault = |what| Some(Fault::new(Rule::Convergence, what));
        let attached = match self.attached() {
            Ok(attached) => attached,
            Err(waiting) => return fault(waiting),
        };
        let sums = attached.into_iter();
        let sums: BTreeMap<String, Occupancy> = sums
            .map(|(channel, regions)| (channel, regions.into_values().sum()))
            .collect();
        let channels: BTreeSet<&String> = sums.keys().chain(listed.keys()).collect();
        let mut wrong = channels
            .into_iter()
            .filter(|of| sums.get(*of) != listed.get(*of));
        let channel = wrong.next()?;
        let (is, wanted) = (listed.get(channel), sums.get(channel));
        let more = wrong.count();
        fault(format!(
            "{node} lists {channel} with {is:?}, {wanted:?} is attached; {more} more are wrong"
        ))
    }

    /// Judges what a watcher's events end in once everything has healed: the channels that are open,
    /// where they are active, and their counts.
    #[must_use]
    pub fn ends(&self, states: &BTreeMap<String, ChannelState>) -> Option<Fault> {
        let fault = |what| Some(Fault::new(Rule::Convergence, what));
        let attached = match self.attached() {
            Ok(attached) => attached,
            Err(waiting) => return fault(waiting),
        };
        let nothing = (ChannelState::default(), BTreeMap::new());
        for channel in attached.keys().chain(states.keys()) {
            let told = states.get(channel).unwrap_or(&nothing.0);
            let regions = attached.get(channel).unwrap_or(&nothing.1);
            let active: BTreeSet<&String> = told.active.iter().collect();
            let same = told.open != regions.is_empty()
                && active == regions.keys().collect()
                && (!told.open || told.occupancy == regions.values().copied().sum());
            if !same {
                return fault(format!(
                    "the events of {channel} end in {told:?}, {regions:?} is attached"
                ));
            }
        }
        None
    }
}

/// What may have caused a channel's transitions, in a region or everywhere.
struct Causes {
    present: Spans,
    absent: Spans,
    /// When the last transition may have been caused at the earliest.
    last: At,
    /// When sources left and came, and how many of each caused something; not known if any were
    /// taken away.
    changes: Option<[(Vec<At>, usize); 2]>,
}

impl Causes {
    /// Takes what caused a transition that was told at `until`; returns whether there is anything.
    fn take(&mut self, active: bool, until: At) -> bool {
        let change = self.changes.as_mut().map(|changes| {
            let (moments, taken) = &mut changes[usize::from(active)];
            *taken += 1;
            moments.get(*taken - 1).is_some_and(|at| *at <= until)
        });
        let of = if active { &self.present } else { &self.absent };
        let first = of.first_from(self.last).filter(|first| *first <= until);
        self.last = first.unwrap_or(self.last);
        first.is_some() && change.unwrap_or(true)
    }

    /// Gives back what a transition took.
    fn give_back(&mut self, active: bool) {
        if let Some(changes) = &mut self.changes {
            let (_, taken) = &mut changes[usize::from(active)];
            *taken = taken.saturating_sub(1);
        }
    }
}

/// Returns whether an event is a transition, and if so whether something is there afterwards.
fn transition(told: &Told) -> Option<bool> {
    match told.kind {
        EventKind::Opened | EventKind::RegionActive => Some(true),
        EventKind::Closed | EventKind::RegionInactive => Some(false),
        EventKind::Occupancy => None,
    }
}

/// The beginning of a track: nothing.
fn start() -> Vec<Value> {
    vec![Value {
        occupancy: Occupancy::ZERO,
        invoked: At::ZERO,
        acked: Some(At::ZERO),
    }]
}

fn lower(mine: Occupancy, other: Occupancy) -> Occupancy {
    // min(a, b) = a - max(a - b, 0)
    mine.minus(mine.minus(other))
}

/// Returns whether no count is above the other's.
fn fits(low: Occupancy, high: Occupancy) -> bool {
    low.minus(high).is_zero()
}

/// Returns the largest counts that a source had.
fn largest(track: &[Value]) -> Occupancy {
    let values = track.iter().map(|value| value.occupancy);
    values.fold(Occupancy::ZERO, Occupancy::max)
}

#[cfg(test)]
mod tests;
