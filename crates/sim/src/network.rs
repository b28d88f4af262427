//! A network of machines that speak TCP, as far as a program can see.
//!
//! ```text
//! socket ──write──▶ way of the direction ──delay──▶ inbox of the other end ──read──▶
//!                        │ cut: what is sent is kept, and comes late once the cut is healed
//! ```
//! Bytes of one direction arrive in order or not at all. A cut swallows nothing for ever: as TCP
//! sends again, what was written comes after the healing, a while later the longer the cut was; a
//! connection that is to come about waits likewise. A process that dies resets its connections; a
//! machine that loses power does not, and its peers learn of it when it is back.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use headcount_net::{Accepted, Dial, Dialling, Listen, Socket};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of one direction that are under way or not read: a writer waits beyond.
const WINDOW: usize = 256 * 1024;

/// Most connections that wait to be accepted.
const BACKLOG: usize = 128;

/// The longest that what a cut held waits after the healing: the kernel's pauses between two
/// attempts grow with the cut.
const LATE_MAX: Duration = Duration::from_secs(3);

/// The network. A cheap handle.
#[derive(Clone, Debug)]
pub struct SimNetwork(Arc<Mutex<Inner>>);

/// What a way between two machines is like, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The shortest time on the way.
    pub delay: Duration,
    /// What is added to it at most.
    pub jitter: Duration,
    /// How much enters it in a second, of all connections together; without a bound if `None`.
    pub bytes_per_second: Option<u64>,
}

/// What the network did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that came about.
    pub connections: u64,
    /// Pieces delivered.
    pub pieces: u64,
    /// Bytes delivered.
    pub bytes: u64,
    /// Pieces that a cut held up.
    pub held: u64,
    /// Connections that were reset.
    pub resets: u64,
}

#[derive(Debug)]
struct Inner {
    now: Duration,
    rng: StdRng,
    machines: BTreeMap<IpAddr, Machine>,
    ways: BTreeMap<(IpAddr, IpAddr), Road>,
    default_way: Way,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    /// What arrives, by when and in which order.
    arrivals: BTreeMap<(Duration, u64), Arrival>,
    next_arrival: u64,
    traffic: Traffic,
}

/// The way in one direction as it is now.
#[derive(Debug)]
struct Road {
    way: Way,
    /// Until when what was sent enters it.
    busy: Duration,
    /// Since when it is cut.
    cut: Option<Duration>,
    held: VecDeque<Arrival>,
}

#[derive(Debug)]
struct Machine {
    state: Power,
    ports: BTreeMap<u16, Port>,
    next_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    /// It answers, if only by refusing.
    On,
    /// It does not answer.
    Off,
}

#[derive(Debug, Default)]
struct Port {
    waiting: VecDeque<SimSocket>,
    acceptor: Option<Waker>,
}

/// One direction of a connection.
#[derive(Debug)]
struct Pipe {
    from: SocketAddr,
    to: SocketAddr,
    /// The pipe of the other direction.
    back: u64,
    inbox: VecDeque<u8>,
    under_way: usize,
    /// When the last piece of it arrives: later ones come after it.
    last: Duration,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The reader knows that nothing more comes.
    ended: bool,
    /// The writer said that it writes nothing more.
    closed: bool,
    /// Neither end may use it any more.
    reset: bool,
    /// Ends that still hold it: the writer and the reader.
    held: (bool, bool),
}

#[derive(Clone, Debug)]
enum Arrival {
    /// A connection is asked for: the pipe towards the listener.
    Syn(u64),
    /// The listener's machine took it: the same pipe.
    Taken(u64),
    Data(u64, Vec<u8>),
    End(u64),
    /// The pipe and its opposite are over.
    Reset(u64),
}

impl SimNetwork {
    /// Makes a network without machines.
    #[must_use]
    pub fn new(seed: u64, default_way: Way) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            now: Duration::ZERO,
            rng: StdRng::seed_from_u64(seed),
            machines: BTreeMap::new(),
            ways: BTreeMap::new(),
            default_way,
            pipes: BTreeMap::new(),
            next_pipe: 0,
            arrivals: BTreeMap::new(),
            next_arrival: 0,
            traffic: Traffic::default(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a machine, which is on.
    pub fn add(&self, machine: IpAddr) {
        let machine_state = Machine {
            state: Power::On,
            ports: BTreeMap::new(),
            next_port: 30_000,
        };
        self.lock().machines.insert(machine, machine_state);
    }

    /// Sets what the way from one machine to another is like.
    pub fn set_way(&self, from: IpAddr, to: IpAddr, way: Way) {
        self.lock().road(from, to).way = way;
    }

    /// Cuts the way from one machine to another, in this direction.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        let mut inner = self.lock();
        let now = inner.now;
        let road = inner.road(from, to);
        road.cut = road.cut.or(Some(now));
        // What is under way is lost, and will be sent again.
        let lost: Vec<_> = inner
            .arrivals
            .iter()
            .filter(|(_, arrival)| inner.is_on(arrival, from, to))
            .map(|(at, _)| *at)
            .collect();
        for at in lost {
            if let Some(arrival) = inner.arrivals.remove(&at) {
                inner.traffic.held += 1;
                inner.road(from, to).held.push_back(arrival);
            }
        }
    }

    /// Heals the way from one machine to another.
    pub fn heal(&self, from: IpAddr, to: IpAddr) {
        let mut inner = self.lock();
        let now = inner.now;
        let road = inner.road(from, to);
        let Some(since) = road.cut.take() else { return };
        let held = std::mem::take(&mut road.held);
        let late = now.saturating_sub(since).min(LATE_MAX);
        for arrival in held {
            // Each connection has its own pause; the order within one is kept by `send`.
            let pause = inner.up_to(late);
            inner.send_after(arrival, pause);
        }
    }

    /// Resets every connection between two machines.
    pub fn reset(&self, one: IpAddr, other: IpAddr) {
        let mut inner = self.lock();
        let between: Vec<u64> = inner
            .pipes
            .iter()
            .filter(|(_, pipe)| {
                let ends = (pipe.from.ip(), pipe.to.ip());
                (ends == (one, other) || ends == (other, one)) && !pipe.reset
            })
            .map(|(id, _)| *id)
            .collect();
        for pipe in between {
            inner.reset(pipe);
        }
    }

    /// Takes a machine's process away; its machine resets connections if it still has power.
    pub fn crash(&self, machine: IpAddr, power_fails: bool) {
        let mut inner = self.lock();
        let Some(here) = inner.machines.get_mut(&machine) else {
            return;
        };
        here.state = if power_fails { Power::Off } else { Power::On };
        let waiting: Vec<SimSocket> = here
            .ports
            .values_mut()
            .flat_map(|port| std::mem::take(&mut port.waiting))
            .collect();
        here.ports.clear();
        let ends: Vec<u64> = inner
            .pipes
            .iter()
            .filter(|(_, pipe)| pipe.from.ip() == machine && !pipe.reset)
            .map(|(id, _)| *id)
            .collect();
        for pipe in ends {
            if !power_fails {
                inner.send(Arrival::Reset(pipe));
            }
            inner.break_here(pipe);
        }
        drop(inner);
        // Their ends take the lock.
        drop(waiting);
    }

    /// Gives a machine power; whoever still writes to what it had before is told so then.
    pub fn start(&self, machine: IpAddr) {
        if let Some(here) = self.lock().machines.get_mut(&machine) {
            here.state = Power::On;
        }
    }

    /// Listens on an address of a machine.
    ///
    /// # Panics
    /// If there is no such machine, or somebody listens there.
    #[must_use]
    pub fn listen(&self, address: SocketAddr) -> SimListener {
        let mut inner = self.lock();
        let machine = inner.machines.get_mut(&address.ip());
        let machine = machine.expect("the machine exists");
        let before = machine.ports.insert(address.port(), Port::default());
        assert!(before.is_none(), "{address} is taken");
        SimListener {
            network: self.clone(),
            address,
        }
    }

    /// Returns what connects from a machine.
    #[must_use]
    pub fn dialer(&self, from: IpAddr) -> SimDialer {
        SimDialer {
            network: self.clone(),
            from,
        }
    }

    /// Lets time pass up to `now`: whatever is due arrives.
    pub fn advance(&self, now: Duration) {
        let mut inner = self.lock();
        loop {
            let next = inner.arrivals.keys().next().copied();
            let Some((at, order)) = next.filter(|(at, _)| *at <= now) else {
                break;
            };
            inner.now = inner.now.max(at);
            if let Some(arrival) = inner.arrivals.remove(&(at, order)) {
                inner.arrive(self, arrival);
            }
        }
        inner.now = now;
    }

    /// Returns what it did so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.lock().traffic
    }
}

impl Inner {
    fn road(&mut self, from: IpAddr, to: IpAddr) -> &mut Road {
        let way = self.default_way;
        self.ways.entry((from, to)).or_insert_with(|| Road {
            way,
            busy: Duration::ZERO,
            cut: None,
            held: VecDeque::new(),
        })
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.rng.random_range(0..=most))
    }

    /// Returns from where to where something travels.
    fn course(&self, arrival: &Arrival) -> Option<(IpAddr, IpAddr)> {
        let (pipe, backwards) = match arrival {
            Arrival::Syn(pipe)
            | Arrival::Data(pipe, _)
            | Arrival::End(pipe)
            | Arrival::Reset(pipe) => (pipe, false),
            Arrival::Taken(pipe) => (pipe, true),
        };
        let pipe = self.pipes.get(pipe)?;
        let (from, to) = (pipe.from.ip(), pipe.to.ip());
        Some(if backwards { (to, from) } else { (from, to) })
    }

    fn is_on(&self, arrival: &Arrival, from: IpAddr, to: IpAddr) -> bool {
        self.course(arrival) == Some((from, to))
    }

    fn send(&mut self, arrival: Arrival) {
        self.send_after(arrival, Duration::ZERO);
    }

    fn send_after(&mut self, arrival: Arrival, pause: Duration) {
        let Some((from, to)) = self.course(&arrival) else {
            return;
        };
        let now = self.now;
        let road = self.road(from, to);
        if road.cut.is_some() {
            road.held.push_back(arrival);
            self.traffic.held += 1;
            return;
        }
        let Way {
            delay,
            jitter,
            bytes_per_second,
        } = road.way;
        let entered = match (bytes_per_second, &arrival) {
            (Some(rate), Arrival::Data(_, bytes)) => {
                let micros = bytes.len() as u64 * 1_000_000 / rate.max(1);
                road.busy = now.max(road.busy) + Duration::from_micros(micros);
                road.busy
            }
            _ => now,
        };
        let jitter = self.up_to(jitter);
        let mut at = entered + delay + jitter + pause;
        let ordered = match &arrival {
            Arrival::Data(pipe, _) | Arrival::End(pipe) | Arrival::Reset(pipe) => {
                self.pipes.get_mut(pipe)
            }
            // What the listener's end writes comes after it.
            Arrival::Taken(pipe) => {
                let back = self.pipes.get(pipe).map(|pipe| pipe.back);
                back.and_then(|back| self.pipes.get_mut(&back))
            }
            Arrival::Syn(_) => None,
        };
        if let Some(pipe) = ordered {
            at = at.max(pipe.last);
            pipe.last = at;
        }
        self.arrivals.insert((at, self.next_arrival), arrival);
        self.next_arrival += 1;
    }

    fn arrive(&mut self, network: &SimNetwork, arrival: Arrival) {
        let Some((_, to)) = self.course(&arrival) else {
            return;
        };
        let state = self.machines.get(&to).map(|machine| machine.state);
        if state != Some(Power::On) {
            return;
        }
        match arrival {
            Arrival::Syn(id) => self.asked(network, id),
            Arrival::Taken(id) => {
                let back = self.pipes.get(&id).map(|pipe| pipe.back);
                if let Some(pipe) = back.and_then(|back| self.pipes.get_mut(&back)) {
                    // Until now the pipe back was not open.
                    pipe.ended = false;
                    wake(&mut pipe.reader);
                }
            }
            Arrival::Data(id, bytes) => {
                self.traffic.pieces += 1;
                self.traffic.bytes += bytes.len() as u64;
                let Some(pipe) = self.pipes.get_mut(&id) else {
                    return;
                };
                pipe.under_way = pipe.under_way.saturating_sub(bytes.len());
                if pipe.held.1 && !pipe.reset {
                    pipe.inbox.extend(bytes);
                    wake(&mut pipe.reader);
                } else {
                    // Nobody reads here any more.
                    let back = pipe.back;
                    self.send(Arrival::Reset(back));
                }
            }
            Arrival::End(id) => {
                if let Some(pipe) = self.pipes.get_mut(&id) {
                    pipe.ended = true;
                    wake(&mut pipe.reader);
                }
            }
            Arrival::Reset(id) => self.reset(id),
        }
    }

    /// Takes a connection in at the listener's machine, or refuses it.
    fn asked(&mut self, network: &SimNetwork, id: u64) {
        let Some(pipe) = self.pipes.get(&id) else {
            return;
        };
        let (from, to, back) = (pipe.from, pipe.to, pipe.back);
        let machine = self.machines.get_mut(&to.ip());
        let port = machine.and_then(|machine| machine.ports.get_mut(&to.port()));
        let Some(port) = port.filter(|port| port.waiting.len() < BACKLOG) else {
            self.send(Arrival::Reset(back));
            return;
        };
        port.waiting.push_back(SimSocket {
            network: network.clone(),
            local: to,
            peer: from,
            incoming: id,
            outgoing: back,
        });
        wake(&mut port.acceptor);
        if let Some(pipe) = self.pipes.get_mut(&id) {
            pipe.held.1 = true;
        }
        if let Some(pipe) = self.pipes.get_mut(&back) {
            pipe.held.0 = true;
        }
        self.traffic.connections += 1;
        self.send(Arrival::Taken(id));
    }

    /// Ends both directions for both ends.
    fn reset(&mut self, id: u64) {
        let Some(pipe) = self.pipes.get(&id) else {
            return;
        };
        let back = pipe.back;
        if !pipe.reset {
            self.traffic.resets += 1;
        }
        for id in [id, back] {
            if let Some(pipe) = self.pipes.get_mut(&id) {
                pipe.reset = true;
                wake(&mut pipe.reader);
                wake(&mut pipe.writer);
            }
        }
    }

    /// Ends a connection for the end at one machine; the other does not know. `id` is the pipe from
    /// there.
    fn break_here(&mut self, id: u64) {
        let Some(back) = self.pipes.get(&id).map(|pipe| pipe.back) else {
            return;
        };
        if let Some(pipe) = self.pipes.get_mut(&id) {
            pipe.held.0 = false;
            pipe.writer = None;
        }
        if let Some(pipe) = self.pipes.get_mut(&back) {
            pipe.held.1 = false;
            pipe.inbox.clear();
            pipe.reader = None;
        }
        self.forget(id);
    }

    /// Forgets a connection that nobody holds.
    fn forget(&mut self, id: u64) {
        let Some(back) = self.pipes.get(&id).map(|pipe| pipe.back) else {
            return;
        };
        let free = |pipe: Option<&Pipe>| pipe.is_none_or(|pipe| pipe.held == (false, false));
        if free(self.pipes.get(&id)) && free(self.pipes.get(&back)) {
            self.pipes.remove(&id);
            self.pipes.remove(&back);
        }
    }

    /// Makes a connection from a machine, which is asked for.
    fn dial(&mut self, from: IpAddr, to: SocketAddr) -> (u64, SocketAddr) {
        let port = self.machines.get_mut(&from).map_or(30_000, |machine| {
            machine.next_port = machine.next_port.checked_add(1).unwrap_or(30_000);
            machine.next_port
        });
        let local = SocketAddr::new(from, port);
        let (outgoing, incoming) = (self.next_pipe, self.next_pipe + 1);
        self.next_pipe += 2;
        let pipe = |from, to, back, ended, held| Pipe {
            from,
            to,
            back,
            inbox: VecDeque::new(),
            under_way: 0,
            last: Duration::ZERO,
            reader: None,
            writer: None,
            ended,
            closed: false,
            reset: false,
            held,
        };
        self.pipes
            .insert(outgoing, pipe(local, to, incoming, false, (true, false)));
        self.pipes
            .insert(incoming, pipe(to, local, outgoing, true, (false, true)));
        self.send(Arrival::Syn(outgoing));
        (outgoing, local)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// A listener of a machine.
#[derive(Debug)]
pub struct SimListener {
    network: SimNetwork,
    address: SocketAddr,
}

impl Listen for SimListener {
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        let mut inner = self.network.lock();
        let machine = inner.machines.get_mut(&self.address.ip());
        let port = machine.and_then(|machine| machine.ports.get_mut(&self.address.port()));
        let Some(port) = port else {
            return Poll::Pending;
        };
        match port.waiting.pop_front() {
            Some(socket) => {
                let peer = socket.peer;
                Poll::Ready(Ok((Box::new(socket), peer)))
            }
            None => {
                port.acceptor = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let port = {
            let mut inner = self.network.lock();
            let machine = inner.machines.get_mut(&self.address.ip());
            machine.and_then(|machine| machine.ports.remove(&self.address.port()))
        };
        // The sockets that waited take the lock.
        drop(port);
    }
}

/// What connects from a machine.
#[derive(Clone, Debug)]
pub struct SimDialer {
    network: SimNetwork,
    from: IpAddr,
}

impl SimDialer {
    /// Connects to an address.
    ///
    /// # Errors
    /// If the connection is refused.
    pub async fn connect(self, to: SocketAddr) -> io::Result<SimSocket> {
        let (outgoing, local) = self.network.lock().dial(self.from, to);
        let socket = SimSocket {
            network: self.network,
            local,
            peer: to,
            incoming: outgoing + 1,
            outgoing,
        };
        std::future::poll_fn(|context| {
            let mut inner = socket.network.lock();
            let Some(pipe) = inner.pipes.get_mut(&socket.incoming) else {
                return Poll::Ready(Err(io::Error::from(ErrorKind::ConnectionRefused)));
            };
            if pipe.reset {
                return Poll::Ready(Err(ErrorKind::ConnectionRefused.into()));
            }
            // It is open as soon as it is not ended: see `Arrival::Taken`.
            if pipe.ended {
                pipe.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok::<_, io::Error>(()))
        })
        .await?;
        Ok(socket)
    }
}

impl Dial for SimDialer {
    fn dial(&self, address: &str) -> Dialling<Box<dyn Socket>> {
        let address = address.parse();
        let dialer = self.clone();
        async move {
            let address = address.map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
            let socket = dialer.connect(address).await?;
            Ok(Box::new(socket) as Box<dyn Socket>)
        }
        .boxed()
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct SimSocket {
    network: SimNetwork,
    local: SocketAddr,
    peer: SocketAddr,
    incoming: u64,
    outgoing: u64,
}

impl Socket for SimSocket {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn peer_addr(&self) -> SocketAddr {
        self.peer
    }
}

impl AsyncRead for SimSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.network.lock();
        let Some(pipe) = inner.pipes.get_mut(&self.incoming) else {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        };
        if pipe.reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if !pipe.inbox.is_empty() {
            let count = pipe.inbox.len().min(buffer.remaining());
            let (front, back) = pipe.inbox.as_slices();
            let first = front.len().min(count);
            buffer.put_slice(&front[..first]);
            buffer.put_slice(&back[..count - first]);
            pipe.inbox.drain(..count);
            wake(&mut pipe.writer);
            return Poll::Ready(Ok(()));
        }
        if pipe.ended {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for SimSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.network.lock();
        let Some(pipe) = inner.pipes.get_mut(&self.outgoing) else {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        };
        if pipe.reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        if pipe.closed {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(pipe.under_way + pipe.inbox.len());
        if room == 0 {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = bytes.len().min(room);
        pipe.under_way += count;
        inner.send(Arrival::Data(self.outgoing, bytes[..count].to_vec()));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.network.lock();
        if let Some(pipe) = inner.pipes.get_mut(&self.outgoing)
            && !std::mem::replace(&mut pipe.closed, true)
        {
            inner.send(Arrival::End(self.outgoing));
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut inner = self.network.lock();
        let Inner { pipes, .. } = &mut *inner;
        let mut says_end = false;
        let mut unread = false;
        if let Some(pipe) = pipes.get_mut(&self.outgoing) {
            // Not held any more: the process was taken away, and says nothing.
            let alive = std::mem::replace(&mut pipe.held.0, false);
            says_end = alive && !pipe.closed && !pipe.reset;
            pipe.closed = true;
            pipe.writer = None;
        }
        if let Some(pipe) = pipes.get_mut(&self.incoming) {
            unread = std::mem::replace(&mut pipe.held.1, false) && !pipe.inbox.is_empty();
            pipe.inbox.clear();
            pipe.reader = None;
            // Whoever waits for room finds out that nobody reads.
            wake(&mut pipe.writer);
        }
        if says_end {
            let last = if unread {
                Arrival::Reset(self.outgoing)
            } else {
                Arrival::End(self.outgoing)
            };
            inner.send(last);
        }
        inner.forget(self.outgoing);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::machine::Machine;
    use crate::time;

    const TICK: Duration = Duration::from_millis(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    /// What the reader heard, and when.
    type Heard = Vec<(Duration, io::Result<u8>)>;

    /// Two machines: one writes what it is told to every 10 ms, the other notes when what came.
    struct Pair {
        network: SimNetwork,
        writer: Machine,
        reader: Machine,
        now: Duration,
        heard: Arc<Mutex<Heard>>,
        written: Arc<AtomicU64>,
    }

    impl Pair {
        fn start() -> Self {
            time::set_now(Duration::ZERO);
            let way = Way {
                delay: ms(20),
                jitter: ms(5),
                ..Way::default()
            };
            let network = SimNetwork::new(7, way);
            let mut writer = Machine::new("writer".to_owned(), address(1));
            let mut reader = Machine::new("reader".to_owned(), address(2));
            network.add(address(1));
            network.add(address(2));
            let at = SocketAddr::new(address(2), 80);
            let listener = network.listen(at);
            let heard = Arc::<Mutex<Heard>>::default();
            let hearing = heard.clone();
            reader.start(async move {
                let accepted = std::future::poll_fn(|context| listener.poll_accept(context)).await;
                let (mut socket, _) = accepted.unwrap();
                loop {
                    let read = socket.read_u8().await;
                    let over = read.is_err();
                    hearing.lock().unwrap().push((time::now(), read));
                    if over {
                        return;
                    }
                }
            });
            let dialer = network.dialer(address(1));
            let written = Arc::<AtomicU64>::default();
            let counting = written.clone();
            writer.start(async move {
                let mut socket = dialer.connect(at).await.unwrap();
                for byte in 0..=u8::MAX {
                    // allow-sleep: the rhythm of the writer, in simulated time
                    tokio::time::sleep(ms(10)).await;
                    if socket.write_u8(byte).await.is_err() {
                        return;
                    }
                    counting.fetch_add(1, Ordering::Relaxed);
                }
            });
            Self {
                network,
                writer,
                reader,
                now: Duration::ZERO,
                heard,
                written,
            }
        }

        fn run(&mut self, time: Duration) {
            let until = self.now + time;
            while self.now < until {
                self.now += TICK;
                time::set_now(self.now);
                self.network.advance(self.now);
                self.writer.tick(TICK);
                self.reader.tick(TICK);
            }
        }

        /// Returns the bytes that came, which must be those that were written, in order.
        fn bytes(&self) -> Vec<u8> {
            let heard = self.heard.lock().unwrap();
            let bytes: Vec<u8> = heard
                .iter()
                .filter_map(|(_, read)| read.as_ref().ok().copied())
                .collect();
            let wanted: Vec<u8> = (0..u8::try_from(bytes.len()).unwrap()).collect();
            assert_eq!(bytes, wanted);
            bytes
        }

        fn end(&self) -> Option<ErrorKind> {
            let heard = self.heard.lock().unwrap();
            let (_, last) = heard.last()?;
            last.as_ref().err().map(io::Error::kind)
        }
    }

    #[test]
    fn bytes_come_in_order_after_their_delay() {
        let mut pair = Pair::start();
        // There and back to connect, then ten milliseconds, then there.
        pair.run(ms(69));
        assert_eq!(pair.bytes().len(), 0);
        pair.run(ms(431));
        assert!(pair.bytes().len() > 35, "{:?}", pair.bytes());
        assert_eq!(pair.end(), None);
    }

    #[test]
    fn what_a_cut_held_comes_after_the_healing_and_nothing_before() {
        let mut pair = Pair::start();
        pair.run(ms(300));
        pair.network.cut(address(1), address(2));
        pair.run(ms(10));
        let before = pair.bytes().len();
        pair.run(ms(500));
        assert_eq!(pair.bytes().len(), before);
        pair.network.heal(address(1), address(2));
        pair.run(ms(1_100));
        assert!(pair.bytes().len() > before + 100);
        assert!(pair.network.traffic().held > 50);
    }

    #[test]
    fn a_cut_the_other_way_holds_nothing_up() {
        let mut pair = Pair::start();
        pair.run(ms(300));
        pair.network.cut(address(2), address(1));
        let before = pair.bytes().len();
        pair.run(ms(300));
        assert!(pair.bytes().len() > before + 20);
    }

    #[test]
    fn a_process_that_dies_resets_and_a_machine_that_loses_power_says_nothing() {
        for power_fails in [false, true] {
            let mut pair = Pair::start();
            pair.run(ms(300));
            pair.network.crash(address(1), power_fails);
            pair.writer.stop();
            pair.run(ms(300));
            let expected = (!power_fails).then_some(ErrorKind::ConnectionReset);
            assert_eq!(pair.end(), expected);
        }
    }

    #[test]
    fn who_writes_to_a_machine_that_lost_power_learns_it_when_it_is_back() {
        let mut pair = Pair::start();
        pair.run(ms(300));
        pair.network.crash(address(2), true);
        pair.reader.stop();
        pair.run(ms(300));
        let written = pair.written.load(Ordering::Relaxed);
        assert!(written > 40, "nobody said that it is gone: {written}");
        pair.network.start(address(2));
        pair.run(ms(100));
        let written = pair.written.load(Ordering::Relaxed);
        pair.run(ms(200));
        assert_eq!(pair.written.load(Ordering::Relaxed), written, "it is reset");
    }

    #[test]
    fn what_is_sent_faster_than_a_way_takes_it_waits_and_comes_in_order() {
        let mut pair = Pair::start();
        pair.run(ms(300));
        let thin = Way {
            delay: ms(20),
            bytes_per_second: Some(50),
            ..Way::default()
        };
        pair.network.set_way(address(1), address(2), thin);
        let before = pair.bytes().len();
        pair.run(ms(1_000));
        let came = pair.bytes().len() - before;
        // One each 10 ms is written, and one each 20 ms gets through.
        assert!((45..=55).contains(&came), "{came}");
    }

    #[test]
    fn a_clock_that_runs_fast_or_slow_is_off_by_its_rate() {
        for (permille, expected) in [(950, 93..=97), (1_000, 98..=101), (1_050, 103..=107)] {
            let mut pair = Pair::start();
            pair.run(ms(500));
            pair.writer.set_rate(permille);
            let written = pair.written.load(Ordering::Relaxed);
            pair.run(ms(1_000));
            let written = pair.written.load(Ordering::Relaxed) - written;
            assert!(expected.contains(&written), "{permille}: {written}");
        }
    }

    #[test]
    fn where_nobody_listens_connections_are_refused() {
        let mut pair = Pair::start();
        let dialer = pair.network.dialer(address(1));
        let refused = Arc::<Mutex<Option<ErrorKind>>>::default();
        let tell = refused.clone();
        pair.writer.spawn(async move {
            let asked = dialer.connect(SocketAddr::new(address(2), 81)).await;
            *tell.lock().unwrap() = asked.err().map(|error| error.kind());
        });
        pair.run(ms(30));
        assert_eq!(*refused.lock().unwrap(), None);
        pair.run(ms(30));
        assert_eq!(*refused.lock().unwrap(), Some(ErrorKind::ConnectionRefused));
    }

    #[test]
    fn a_program_that_was_paused_finds_its_clock_ahead() {
        let mut pair = Pair::start();
        pair.run(ms(200));
        let written = pair.written.load(Ordering::Relaxed);
        pair.writer.pause();
        pair.run(ms(500));
        assert_eq!(pair.written.load(Ordering::Relaxed), written);
        pair.writer.resume();
        pair.run(ms(100));
        let after = pair.written.load(Ordering::Relaxed) - written;
        // What was due is due once; the next sleeps begin then.
        assert!((5..=12).contains(&after), "{after}");
    }
}
