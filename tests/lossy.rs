//! Processes that meet over bad links: packets are lost, doubled, out of order and damaged, links are cut,
//! addresses change, and processes are killed. Once links are whole again, all hold the same bytes.

mod relay;

use std::process::Command;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rejoin_tests::child::{Peer, settle};
use rejoin_tests::{Failure, PATIENCE};
use relay::{Relay, STORM, Way, Weather};

/// A link slow enough that a transfer can be met half-way.
const SLOW: Weather = Weather {
    cut: false,
    lost_percent: 0,
    doubled_percent: 0,
    damaged_percent: 0,
    delay_max_ms: 2,
    bytes_per_second: Some(1_000_000),
};

/// Processes in a line, each of which dials the next one through a relay. The processes end, and the folder
/// goes, with this value.
struct Line {
    peers: Vec<Peer>,
    /// The n-th one leads from the n-th process to the next.
    relays: Vec<Relay>,
    folder: tempfile::TempDir,
    online: String,
}

impl Line {
    fn new(count: usize, seed: u64) -> Result<Self, Failure> {
        Self::in_weather(count, seed, Weather::default(), "online")
    }

    /// As [`new`](Self::new), over links in that weather, going online with this request.
    fn in_weather(
        count: usize,
        seed: u64,
        weather: Weather,
        online: &str,
    ) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let (peers, relays) = (Vec::new(), Vec::new());
        let mut line = Self { peers, relays, folder, online: online.to_owned() };
        for index in 0..count {
            let (peer, address) = line.start(index)?;
            line.peers.push(peer);
            if index > 0 {
                let relay = Relay::start(address, 100 * seed + index as u64)?;
                relay.set_both(weather);
                line.relays.push(relay);
                line.introduce(index - 1)?;
            }
        }
        Ok(line)
    }

    /// Starts the process with the index, and says where it listens.
    fn start(&self, index: usize) -> Result<(Peer, std::net::SocketAddr), Failure> {
        let name = ["A", "B", "C"][index];
        let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin-test-peer"));
        let mut peer = Peer::start(name, command.arg(self.folder.path().join(name)))?;
        peer.open("")?;
        let address = peer.ask(&self.online)?.parse()?;
        Ok((peer, address))
    }

    /// Makes a process and the next one known to each other.
    fn introduce(&mut self, index: usize) -> Result<(), Failure> {
        let Some([dialler, listener]) = self.peers.get_mut(index..index + 2) else {
            return Err("no such link".into());
        };
        let address = self.relays[index].address();
        listener.ask(&format!("peer {}", dialler.device()))?;
        dialler.ask(&format!("peer {} {address}", listener.device()))?;
        Ok(())
    }

    /// Starts a process that was killed anew, on another port, and lets its neighbours' links lead there.
    fn restart(&mut self, index: usize) -> Result<(), Failure> {
        let (peer, address) = self.start(index)?;
        self.peers[index] = peer;
        if index > 0 {
            self.relays[index - 1].set_target(address);
            self.introduce(index - 1)?;
        }
        if index < self.relays.len() {
            self.introduce(index)?;
        }
        Ok(())
    }

    fn set_all(&self, weather: Weather) {
        self.relays.iter().for_each(|relay| relay.set_both(weather));
    }

    /// Every process writes so many pairs of its own.
    fn write_all(&mut self, first: u64, count: u64, bytes: usize) -> Result<(), Failure> {
        for index in 0..self.peers.len() {
            self.write(index, first, count, bytes)?;
        }
        Ok(())
    }

    fn write(&mut self, index: usize, first: u64, count: u64, bytes: usize) -> Result<(), Failure> {
        let peer = &mut self.peers[index];
        let writer = peer.name().to_owned();
        match peer.write(&writer, first, count, bytes)? {
            (_, None) => Ok(()),
            (_, Some(error)) => Err(format!("{writer} does not write: {error}").into()),
        }
    }

    /// Waits until all hold the same bytes, and checks that each has all pairs that each wrote.
    fn settle(&mut self, counts: &[u64]) -> Result<(), Failure> {
        let settled = settle(&mut self.peers.iter_mut().collect::<Vec<_>>());
        settled.map_err(|error| format!("{error}\n  links: {:#?}", self.relays))?;
        for peer in &mut self.peers {
            for (writer, count) in ["A", "B", "C"].iter().zip(counts) {
                assert_eq!(peer.pairs(writer)?, (0..*count).collect::<Vec<_>>(), "of {writer}");
            }
        }
        Ok(())
    }

    /// Waits until a process has at least so many pairs of a writer; how many it has.
    fn reaches(&mut self, index: usize, writer: &str, count: u64) -> Result<u64, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let there = self.peers[index].pairs(writer)?.len() as u64;
            if there >= count {
                return Ok(there);
            }
            if Instant::now() > deadline {
                let links = &self.relays;
                return Err(format!("{there} of {count} pairs of {writer} came: {links:#?}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn three_processes_converge_in_a_storm() -> Result<(), Failure> {
    let mut line = Line::in_weather(3, 1, STORM, "online")?;
    for round in 0..10 {
        line.write_all(5 * round, 5, 2_000)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    line.settle(&[50, 50, 50])?;
    for relay in &line.relays {
        for way in [Way::Out, Way::Back] {
            let counts = relay.counts(way);
            let all = [counts.lost, counts.doubled, counts.damaged];
            assert!(all.iter().all(|count| *count > 0), "there was no storm: {relay:?}");
        }
    }
    Ok(())
}

#[test]
fn both_sides_of_a_partition_write_and_meet_again() -> Result<(), Failure> {
    let mut line = Line::new(3, 2)?;
    line.write_all(0, 5, 100)?;
    line.settle(&[5, 5, 5])?;
    line.relays[1].cut_both(true);
    line.write_all(5, 40, 200)?;
    settle(&mut line.peers[..2].iter_mut().collect::<Vec<_>>())?;
    assert_eq!(line.peers[0].pairs("C")?.len(), 5, "a write crossed the cut");
    assert_eq!(line.peers[2].pairs("A")?.len(), 5, "a write crossed the cut");
    // Longer than a connection lives without a word.
    std::thread::sleep(Duration::from_millis(3_500));
    line.write_all(45, 5, 200)?;
    line.relays[1].cut_both(false);
    line.settle(&[50, 50, 50])
}

#[test]
fn a_link_that_works_one_way_only_harms_nobody() -> Result<(), Failure> {
    let mut line = Line::new(2, 3)?;
    line.write_all(0, 5, 100)?;
    line.settle(&[5, 5])?;
    let mut expected = 5;
    for way in [Way::Out, Way::Back] {
        line.relays[0].cut(way, true);
        line.write_all(expected, 30, 200)?;
        std::thread::sleep(Duration::from_millis(1_000));
        // What is sent against the cut does not arrive. The other way some of it may.
        let (unreached, writer) = if way == Way::Out { (1, "A") } else { (0, "B") };
        let there = line.peers[unreached].pairs(writer)?.len() as u64;
        assert_eq!(there, expected, "a write crossed the cut");
        expected += 30;
        line.relays[0].cut(way, false);
        line.settle(&[expected, expected])?;
    }
    assert!(line.relays[0].counts(Way::Out).cut > 0, "nothing met the cut: {:?}", line.relays);
    Ok(())
}

#[test]
fn a_flapping_link_delivers_in_the_end() -> Result<(), Failure> {
    let mut line = Line::new(3, 4)?;
    line.set_all(Weather { lost_percent: 5, delay_max_ms: 5, ..Weather::default() });
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for flap in 0..20 {
        for relay in &line.relays {
            match rng.random_range(0..4) {
                0 => relay.cut_both(true),
                1 => relay.cut(Way::Out, true),
                2 => relay.cut(Way::Back, true),
                _ => relay.rebind(),
            }
        }
        line.write_all(3 * flap, 3, 500)?;
        std::thread::sleep(Duration::from_millis(rng.random_range(20..150)));
        line.relays.iter().for_each(|relay| relay.cut_both(false));
        std::thread::sleep(Duration::from_millis(rng.random_range(20..150)));
    }
    line.settle(&[60, 60, 60])
}

#[test]
fn a_changed_address_does_not_break_a_transfer() -> Result<(), Failure> {
    // A connection that did not follow to the new address would last until long after the test.
    let mut line = Line::in_weather(2, 5, Weather::default(), "online 300000")?;
    line.write_all(0, 1, 1)?;
    line.settle(&[1, 1])?;
    line.set_all(SLOW);
    line.write_all(1, 300, 4_000)?;
    let mut met_half_way = 0;
    for step in 1..=4 {
        let there = line.reaches(1, "A", 60 * step)?.min(line.reaches(0, "B", 60 * step)?);
        met_half_way += u32::from(there < 301);
        line.relays[0].rebind();
    }
    assert!(met_half_way > 0, "every transfer was over before the address changed");
    line.settle(&[301, 301])?;
    for peer in &mut line.peers {
        assert_eq!(peer.ask("connects")?, "1", "the connection did not survive");
    }
    Ok(())
}

#[test]
fn a_killed_middle_loses_nothing_that_it_passed_on() -> Result<(), Failure> {
    let mut line = Line::new(3, 6)?;
    line.set_all(SLOW);
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut written = [0; 3];
    let mut met_half_way = 0;
    for _ in 0..3 {
        let before = written[0];
        for (index, count) in [(0, 200), (1, 10), (2, 200)] {
            line.write(index, written[index], count, 3_000)?;
            written[index] += count;
        }
        let there = line.reaches(1, "A", before + rng.random_range(1..120))?;
        met_half_way += u32::from(there < written[0]);
        line.peers[1].kill()?;
        for index in [0, 2] {
            line.write(index, written[index], 10, 500)?;
            written[index] += 10;
        }
        line.restart(1)?;
    }
    assert!(met_half_way > 0, "every transfer was over before the kill");
    line.settle(&written)
}
