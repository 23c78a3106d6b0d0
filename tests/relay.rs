//! A link between two processes that a test has in its hand: UDP packets go through it, and on the way they
//! get lost, doubled, delayed, damaged, or are held up, as its weather says. What happens to the n-th packet
//! follows from the seed.
//!
//! One end dials the relay's address as if it were the other end's. Towards that one the relay sends from a
//! port of its own, as a router that translates addresses does, and can change it at any time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rejoin_tests::Failure;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

/// Packets are at most this long.
const PACKET_BYTES_MAX: usize = 2048;
/// A link with a rate drops what would wait in it for longer than this.
const QUEUE_MAX: Duration = Duration::from_millis(100);

/// What happens to packets in one direction. By default: nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Nothing gets through.
    pub cut: bool,
    /// How many packets of a hundred are lost.
    pub lost_percent: u32,
    /// How many come twice.
    pub doubled_percent: u32,
    /// How many come with a bit flipped.
    pub damaged_percent: u32,
    /// Each packet takes up to so long, at random, and so overtakes others.
    pub delay_max_ms: u64,
    /// How much gets through at most.
    pub bytes_per_second: Option<u64>,
}

/// All at once: a fifth lost, and most of the rest out of order.
pub const STORM: Weather = Weather {
    cut: false,
    lost_percent: 20,
    doubled_percent: 10,
    damaged_percent: 5,
    delay_max_ms: 15,
    bytes_per_second: None,
};

/// The direction in which a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the end that dials.
    Out,
    /// To the end that dials.
    Back,
}

/// What has happened to packets so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub arrived: u64,
    pub cut: u64,
    pub lost: u64,
    pub doubled: u64,
    pub damaged: u64,
    pub overflowed: u64,
}

/// A relay, which stops when it is dropped.
pub struct Relay {
    address: SocketAddr,
    control: Arc<Mutex<Control>>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Control {
    target: SocketAddr,
    weather: [Weather; 2],
    counts: [Counts; 2],
    /// How many times the port towards the target is to have changed.
    rebinds: u64,
}

impl Relay {
    /// A link in fair weather to the process that listens at `target`.
    pub fn start(target: SocketAddr, seed: u64) -> Result<Self, Failure> {
        let front = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        front.set_nonblocking(true)?;
        let address = front.local_addr()?;
        let control =
            Control { target, weather: Default::default(), counts: Default::default(), rebinds: 0 };
        let control = Arc::new(Mutex::new(control));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&control);
        std::thread::spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    ended = run(front, shared, seed) => {
                        if let Err(error) = ended {
                            eprintln!("a relay failed: {error}");
                        }
                    }
                    // The relay was dropped.
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, control, _stop: stop })
    }

    /// Where the end that dials finds the other one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process at the far end listens elsewhere now.
    pub fn set_target(&self, target: SocketAddr) {
        self.control().target = target;
    }

    /// Changes the weather in both directions.
    pub fn set_both(&self, weather: Weather) {
        self.control().weather = [weather; 2];
    }

    /// Cuts one direction, or mends it; the rest of its weather stays.
    pub fn cut(&self, way: Way, cut: bool) {
        self.control().weather[way as usize].cut = cut;
    }

    /// Cuts both directions, or mends them.
    pub fn cut_both(&self, cut: bool) {
        self.cut(Way::Out, cut);
        self.cut(Way::Back, cut);
    }

    /// From the next packet on, packets reach the target from another port, and none come back through the old.
    pub fn rebind(&self) {
        self.control().rebinds += 1;
    }

    /// What has happened to the packets of one direction.
    pub fn counts(&self, way: Way) -> Counts {
        self.control().counts[way as usize]
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        hold(&self.control)
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.control().fmt(f)
    }
}

fn hold(control: &Mutex<Control>) -> MutexGuard<'_, Control> {
    control.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A packet on its way, and when it arrives; packets of one moment keep their order.
type Flying = Reverse<(Instant, u64, usize, Vec<u8>)>;

/// What a relay keeps to itself.
struct Line {
    control: Arc<Mutex<Control>>,
    chance: [ChaCha8Rng; 2],
    /// When each direction with a rate has room for the next packet.
    free_at: [Instant; 2],
    flying: BinaryHeap<Flying>,
    taken: u64,
}

async fn run(
    front: std::net::UdpSocket,
    control: Arc<Mutex<Control>>,
    seed: u64,
) -> std::io::Result<()> {
    let front = UdpSocket::from_std(front)?;
    let mut back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut rebinds = 0;
    let mut dialler = None;
    let chance = [2 * seed, 2 * seed + 1].map(ChaCha8Rng::seed_from_u64);
    let now = Instant::now();
    let mut line = Line { control, chance, free_at: [now; 2], flying: BinaryHeap::new(), taken: 0 };
    let (mut out, mut home) = ([0; PACKET_BYTES_MAX], [0; PACKET_BYTES_MAX]);
    loop {
        let next = line.flying.peek().map(|Reverse((due, ..))| *due);
        let due = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            // The system tells a socket about ports that nobody listens at, which is no news here.
            packet = front.recv_from(&mut out) => if let Ok((length, from)) = packet {
                dialler = Some(from);
                line.take(Way::Out, &out[..length]);
            },
            packet = back.recv_from(&mut home) => if let Ok((length, _)) = packet {
                line.take(Way::Back, &home[..length]);
            },
            () = tokio::time::sleep_until(due.into()) => {}
        }
        while line.flying.peek().is_some_and(|Reverse((due, ..))| *due <= Instant::now()) {
            let Some(Reverse((_, _, way, packet))) = line.flying.pop() else { break };
            let (target, wanted) = {
                let control = hold(&line.control);
                (control.target, control.rebinds)
            };
            if rebinds != wanted {
                rebinds = wanted;
                back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            }
            // A packet that the system does not take is a lost one.
            let _ = match (way == Way::Out as usize, dialler) {
                (true, _) => back.send_to(&packet, target).await,
                (false, Some(dialler)) => front.send_to(&packet, dialler).await,
                (false, None) => continue,
            };
        }
    }
}

impl Line {
    /// Decides what happens to a packet.
    fn take(&mut self, way: Way, packet: &[u8]) {
        let way = way as usize;
        let mut control = hold(&self.control);
        let weather = control.weather[way];
        let counts = &mut control.counts[way];
        let chance = &mut self.chance[way];
        // Every packet takes as many numbers, whatever happens to it.
        let mut roll = |percent: u32| chance.random_range(0..100) < percent;
        let lost = roll(weather.lost_percent);
        let doubled = roll(weather.doubled_percent);
        let damaged = roll(weather.damaged_percent);
        let flipped: u32 = chance.random();
        let delays: [u64; 2] = chance.random();
        if weather.cut {
            counts.cut += 1;
            return;
        }
        if lost {
            counts.lost += 1;
            return;
        }
        let now = Instant::now();
        let mut sent = now;
        if let Some(rate) = weather.bytes_per_second {
            let free_at = &mut self.free_at[way];
            sent = now.max(*free_at);
            if sent - now > QUEUE_MAX {
                counts.overflowed += 1;
                return;
            }
            let micros = packet.len() as u64 * 1_000_000 / rate;
            *free_at = sent + Duration::from_micros(micros);
        }
        let mut packet = packet.to_vec();
        if damaged && !packet.is_empty() {
            counts.damaged += 1;
            let bit = flipped as usize % (8 * packet.len());
            packet[bit / 8] ^= 1 << (bit % 8);
        }
        counts.arrived += 1;
        counts.doubled += u64::from(doubled);
        for delay in &delays[..1 + usize::from(doubled)] {
            let due = sent + Duration::from_millis(delay % (weather.delay_max_ms + 1));
            self.taken += 1;
            self.flying.push(Reverse((due, self.taken, way, packet.clone())));
        }
    }
}
