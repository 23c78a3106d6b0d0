//! A replica in a process of its own, led by requests on standard input, one a line, each answered by one
//! line on standard output: `ok` and the answer, or `refused` and the error.
//!
//! | request | answer |
//! |---|---|
//! | `open [BUFFER_BYTES [SEGMENT_BYTES]]` | the device |
//! | `close` | |
//! | `online [IDLE_TIMEOUT_MS]` | the address |
//! | `peer DEVICE [ADDRESS]` | |
//! | `write WRITER FIRST COUNT BYTES` | how many pairs were acknowledged, and the error that ended it |
//! | `pairs WRITER` | their numbers |
//! | `version`, `digest` | of the space |
//! | `peers`, `connects`, `stops` | how the network stands |
//! | `fill FILE BYTES` | how many bytes were written to a file before the disk was full |
//! | `clutter PREFIX` | how many empty files were made before there was room for no more |
//! | `remove PREFIX` | how many files were removed |
//!
//! It ends when its input does, at once, whatever it is doing.

use std::fs::File;
use std::io::{BufRead, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};

use rejoin::{Network, NetworkEvent, Options, Replica, Space, path};
use rejoin_tests::{Failure, SPACE, read_pairs};
use tokio::runtime::Runtime;

/// A loop that makes files gives up here.
const CLUTTER_MAX: usize = 10_000;

fn main() -> Result<(), Failure> {
    // A panic on any thread is the test's to know.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        say("panicked");
        std::process::exit(101);
    }));
    let folder = std::env::args().nth(1).ok_or("usage: FOLDER")?;
    let mut peer = Peer::new(folder.into())?;
    say(&format!("pid {}", std::process::id()));
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    while let Ok(request) = requests.recv() {
        match peer.answer(&request) {
            Ok(answer) => say(format!("ok {answer}").trim_end()),
            Err(error) => say(&format!("refused {}", error.replace('\n', " "))),
        }
    }
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // When the pipe is gone there is nobody to tell.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

struct Peer {
    folder: PathBuf,
    runtime: Runtime,
    open: Option<(Replica, Space)>,
    /// The spaces that a session stopped syncing, and why.
    stops: Arc<Mutex<Vec<String>>>,
}

impl Peer {
    fn new(folder: PathBuf) -> Result<Self, Failure> {
        Ok(Self { folder, runtime: Runtime::new()?, open: None, stops: Arc::default() })
    }

    fn answer(&mut self, request: &str) -> Result<String, String> {
        let words: Vec<&str> = request.split_whitespace().collect();
        let done = match words[..] {
            ["open", ref sizes @ ..] => self.open(sizes),
            ["close"] => self.close(),
            ["online", ref idle @ ..] => self.online(idle),
            ["peer", device, ref addresses @ ..] => self.peer(device, addresses),
            ["write", writer, first, count, bytes] => self.write(writer, first, count, bytes),
            ["pairs", writer] => self.pairs(writer),
            ["version"] => self.version(),
            ["digest"] => self.digest(),
            ["peers"] => self.replica().map(|replica| format!("{:?}", replica.peers())),
            ["connects"] => self.connects(),
            ["stops"] => Ok(self.stops.lock().unwrap_or_else(PoisonError::into_inner).join("; ")),
            ["fill", file, bytes] => self.fill(file, bytes),
            ["clutter", prefix] => self.clutter(prefix),
            ["remove", prefix] => self.remove(prefix),
            _ => Err("no such request".into()),
        };
        // Errors of the engine are told apart by their names, which only `Debug` shows.
        done.map_err(|error| match error.downcast::<rejoin::Error>() {
            Ok(error) => format!("{error:?}"),
            Err(error) => error.to_string(),
        })
    }

    fn open(&mut self, sizes: &[&str]) -> Result<String, Failure> {
        let mut options = Options::default();
        if let Some(bytes) = sizes.first() {
            options.store.buffer_bytes = bytes.parse()?;
            options.store.buffer_bytes_max = 4 * options.store.buffer_bytes;
        }
        if let Some(bytes) = sizes.get(1) {
            options.store.segment_bytes = bytes.parse()?;
        }
        // Nothing is cached for long, so that reads reach the disk.
        options.store.tree_cache_bytes = 64 << 10;
        let replica = Replica::open_with(&self.folder, options)?;
        let space = replica.space(SPACE)?;
        let device = replica.device_id().to_string();
        self.open = Some((replica, space));
        Ok(device)
    }

    fn close(&mut self) -> Result<String, Failure> {
        let (replica, space) = self.open.take().ok_or("closed")?;
        drop(space);
        self.runtime.block_on(replica.offline());
        replica.close()?;
        Ok(String::new())
    }

    fn online(&mut self, idle: &[&str]) -> Result<String, Failure> {
        let mut network = Network::loopback();
        // Dead connections are noticed soon, and nobody waits long to try again: the tests are about what
        // happens then.
        network.config.idle_timeout_ms = idle.first().map_or(Ok(3_000), |word| word.parse())?;
        network.config.keep_alive_ms = 1_000;
        network.config.redial.cap_ms = 500;
        let replica = self.replica()?;
        self.runtime.block_on(replica.online(network))?;
        let address = replica.local_address().ok_or("not online")?;
        let (mut events, stops) = (replica.network_events()?, Arc::clone(&self.stops));
        self.runtime.spawn(async move {
            while let Some(event) = events.next().await {
                let event = match event {
                    NetworkEvent::Session { event, .. } => format!("{event:?}"),
                    _ => continue,
                };
                if event.starts_with("SpaceStopped") {
                    stops.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
            }
        });
        Ok(address.to_string())
    }

    fn peer(&self, device: &str, addresses: &[&str]) -> Result<String, Failure> {
        let addresses: Result<_, _> = addresses.iter().map(|address| address.parse()).collect();
        self.replica()?.add_peer(device.parse()?, addresses?)?;
        Ok(String::new())
    }

    fn write(
        &self,
        writer: &str,
        first: &str,
        count: &str,
        bytes: &str,
    ) -> Result<String, Failure> {
        let (first, count): (u64, u64) = (first.parse()?, count.parse()?);
        let bytes: usize = bytes.parse()?;
        let space = self.space()?;
        for done in 0..count {
            let number = first + done;
            let load: Vec<u8> = (0..bytes).map(|at| (at as u64 * 31 + number) as u8).collect();
            let written = space.write(|tx| {
                tx.register(path![writer, number, "load"]).put(load)?;
                tx.register(path![writer, number, "left"]).put(number as i64)?;
                tx.register(path![writer, number, "right"]).put(number as i64)?;
                tx.counter(path!["count", writer]).add(1)
            });
            if let Err(error) = written {
                return Ok(format!("{done} {error:?}").replace('\n', " "));
            }
        }
        Ok(count.to_string())
    }

    fn pairs(&self, writer: &str) -> Result<String, Failure> {
        let numbers = read_pairs(self.space()?, writer)?;
        Ok(numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" "))
    }

    fn version(&self) -> Result<String, Failure> {
        Ok(format!("{:?}", self.space()?.durable_version()?))
    }

    fn digest(&self) -> Result<String, Failure> {
        Ok(format!("{:?}", self.space()?.read()?.digest()?))
    }

    fn connects(&self) -> Result<String, Failure> {
        let connects: u64 = self.replica()?.peers().iter().map(|peer| peer.counters.connects).sum();
        Ok(connects.to_string())
    }

    fn fill(&self, name: &str, bytes: &str) -> Result<String, Failure> {
        let bytes: usize = bytes.parse()?;
        let mut file = File::create(self.beside().join(name))?;
        let mut written = 0;
        let block = [0x5a; 4096];
        while written < bytes {
            match file.write(&block[..block.len().min(bytes - written)]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written.to_string())
    }

    fn clutter(&self, prefix: &str) -> Result<String, Failure> {
        for made in 0..CLUTTER_MAX {
            match File::create(self.beside().join(format!("{prefix}{made}"))) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    return Ok(made.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err("the disk takes any number of files".into())
    }

    fn remove(&self, prefix: &str) -> Result<String, Failure> {
        let mut removed = 0;
        for entry in std::fs::read_dir(self.beside())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                std::fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed.to_string())
    }

    /// The folder in which the replica's is.
    fn beside(&self) -> &Path {
        self.folder.parent().unwrap_or(&self.folder)
    }

    fn replica(&self) -> Result<&Replica, Failure> {
        Ok(&self.open.as_ref().ok_or("closed")?.0)
    }

    fn space(&self) -> Result<&Space, Failure> {
        Ok(&self.open.as_ref().ok_or("closed")?.1)
    }
}
