//! The fabric: carries packets between the hosts' TUN devices as the [WAN](crate::wan) decides.
//!
//! The kernel's own emulation (netem) is no part of every kernel; TUN devices are. Each host has
//! one; a thread reads what it sends, and one thread delivers what is due.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::wan::{Fate, Quality, Way};

/// Largest packet. Large ones make fewer of them; each is a system call or two here.
pub(crate) const MTU: u16 = 9_000;

/// Most packets on their way; further ones are lost, as in any router.
const PACKETS_MAX: usize = 200_000;

/// What the fabric did so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Packets delivered.
    pub(crate) passed: AtomicU64,
    /// Packets that chance took.
    pub(crate) lost: AtomicU64,
    /// Packets that met a cut.
    pub(crate) cut: AtomicU64,
    /// Packets that later ones overtook.
    pub(crate) overtaken: AtomicU64,
    /// Packets for which a narrow way had no room.
    pub(crate) crowded: AtomicU64,
}

struct Packet {
    at: Duration,
    /// Keeps packets of the same moment in order.
    number: u64,
    to: usize,
    bytes: Box<[u8]>,
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[derive(Default)]
struct Queue {
    packets: BinaryHeap<Reverse<Packet>>,
    numbered: u64,
}

struct Shared {
    start: Instant,
    hosts: BTreeMap<Ipv4Addr, usize>,
    devices: Vec<SyncDevice>,
    /// By sender and receiver.
    qualities: RwLock<Vec<Quality>>,
    ways: Vec<Mutex<Way>>,
    queue: Mutex<Queue>,
    filled: Condvar,
    counters: Counters,
}

/// The fabric of some hosts. Its threads end with the process.
#[derive(Clone)]
pub(crate) struct Fabric(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fabric {
    /// Makes a device for each host, called `hc-` and its index, in the namespace of this process.
    pub(crate) fn start(hosts: &[Ipv4Addr], seed: u64) -> Result<Self> {
        let devices = (0..hosts.len()).map(|index| {
            let name = format!("hc-{index}");
            let device = DeviceBuilder::new().name(&name).mtu(MTU).build_sync();
            device.with_context(|| format!("cannot make the TUN device {name} (/dev/net/tun)"))
        });
        let ways = 0..hosts.len() * hosts.len();
        let shared = Arc::new(Shared {
            start: Instant::now(),
            hosts: hosts.iter().copied().zip(0..).collect(),
            devices: devices.collect::<Result<_>>()?,
            qualities: RwLock::new(vec![Quality::default(); ways.len()]),
            ways: ways
                .map(|way| Mutex::new(Way::new(seed ^ (way as u64) << 32)))
                .collect(),
            queue: Mutex::default(),
            filled: Condvar::new(),
            counters: Counters::default(),
        });
        for from in 0..hosts.len() {
            let shared = shared.clone();
            std::thread::spawn(move || shared.read(from));
        }
        let delivering = shared.clone();
        std::thread::spawn(move || delivering.deliver());
        Ok(Self(shared))
    }

    /// Changes what one direction is like.
    pub(crate) fn set(&self, from: usize, to: usize, change: impl FnOnce(&mut Quality)) {
        let mut qualities = self
            .0
            .qualities
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        change(&mut qualities[from * self.0.devices.len() + to]);
    }

    /// Returns what it did so far.
    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }
}

impl Shared {
    /// Reads what a host sends.
    fn read(&self, from: usize) {
        let mut buffer = vec![0; usize::from(MTU) + 64];
        // A device that is gone cannot be read; that is the end of the run.
        while let Ok(length) = self.devices[from].recv(&mut buffer) {
            let packet = &buffer[..length];
            // IPv4 only; the destination is in the fifth word of the header.
            if length < 20 || packet[0] >> 4 != 4 {
                continue;
            }
            let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
            if let Some(to) = self.hosts.get(&to) {
                self.send(from, *to, packet);
            }
        }
    }

    fn send(&self, from: usize, to: usize, packet: &[u8]) {
        let way = from * self.devices.len() + to;
        let quality = self
            .qualities
            .read()
            .unwrap_or_else(PoisonError::into_inner)[way];
        let fate = lock(&self.ways[way]).send(&quality, self.start.elapsed(), packet.len());
        let (first, second) = match fate {
            Fate::Arrives(first, second) => (first, second),
            Fate::Overtaken(at) => {
                self.counters.overtaken.fetch_add(1, Ordering::Relaxed);
                (at, None)
            }
            Fate::Crowded => {
                self.counters.crowded.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Fate::Lost => {
                self.counters.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Fate::Cut => {
                self.counters.cut.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        let mut queue = lock(&self.queue);
        for at in std::iter::once(first).chain(second) {
            if queue.packets.len() >= PACKETS_MAX {
                self.counters.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            queue.numbered += 1;
            let (number, bytes) = (queue.numbered, packet.into());
            queue.packets.push(Reverse(Packet {
                at,
                number,
                to,
                bytes,
            }));
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// Delivers what is due, for ever.
    fn deliver(&self) {
        let mut queue = lock(&self.queue);
        loop {
            let now = self.start.elapsed();
            let due = queue.packets.peek().map(|Reverse(packet)| packet.at);
            queue = match due {
                Some(at) if at <= now => {
                    let next = queue.packets.pop();
                    drop(queue);
                    if let Some(Reverse(packet)) = next {
                        // A host whose device is down gets nothing, as in life.
                        if self.devices[packet.to].send(&packet.bytes).is_ok() {
                            self.counters.passed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    lock(&self.queue)
                }
                Some(at) => {
                    let waited = self.filled.wait_timeout(queue, at.saturating_sub(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .filled
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}
