//! A process under test, led by a conversation in lines: a request on its standard input, an answer on its
//! standard output.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::{Failure, PATIENCE};

/// How long a process is given to end by itself once its input has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// A running `rejoin-test-peer`, which ends with this value, whatever the test comes to.
#[derive(Debug)]
pub struct Peer {
    name: String,
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// The process that has the replica; not the child itself where that runs in a sandbox.
    pid: u32,
    device: String,
}

/// What a process answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It did as asked.
    Done(String),
    /// It was refused, with this error.
    Refused(String),
}

impl Peer {
    /// Starts the process, which the failures of the test call `name`.
    pub fn start(name: &str, command: &mut Command) -> Result<Self, Failure> {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = process.stdin.take();
        let output = process.stdout.take().ok_or("no standard output")?;
        let (sender, lines) = channel();
        // The thread ends with the process, whose output it reads.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let (name, device) = (name.to_owned(), String::new());
        let mut peer = Self { name, process, input, lines, pid: 0, device };
        peer.greeted()?;
        Ok(peer)
    }

    /// Asks for something and returns the answer; being refused is a failure.
    pub fn ask(&mut self, request: &str) -> Result<String, Failure> {
        match self.try_ask(request)? {
            Answer::Done(answer) => Ok(answer),
            Answer::Refused(error) => {
                Err(format!("{} was asked to {request:?}: {error}", self.name).into())
            }
        }
    }

    /// Asks for something that may be refused.
    pub fn try_ask(&mut self, request: &str) -> Result<Answer, Failure> {
        let input = self.input.as_mut().ok_or("the process has ended")?;
        writeln!(input, "{request}")
            .and_then(|()| input.flush())
            .map_err(|error| format!("{} is gone before {request:?}: {error}", self.name))?;
        let answer = self.line(request)?;
        match answer.split_once(' ').unwrap_or((&answer, "")) {
            ("ok", rest) => Ok(Answer::Done(rest.to_owned())),
            ("refused", rest) => Ok(Answer::Refused(rest.to_owned())),
            _ => Err(format!("{} answers {request:?} with {answer:?}", self.name).into()),
        }
    }

    /// Opens the replica, with `options` as the process takes them.
    pub fn open(&mut self, options: &str) -> Result<(), Failure> {
        self.device = self.ask(&format!("open {options}"))?;
        Ok(())
    }

    /// The device that the replica proves to be.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What the test calls the process.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes pairs of so many bytes, as far as that succeeds: how many were acknowledged, and what
    /// refused the next one.
    pub fn write(
        &mut self,
        writer: &str,
        first: u64,
        count: u64,
        bytes: usize,
    ) -> Result<(u64, Option<String>), Failure> {
        let answer = self.ask(&format!("write {writer} {first} {count} {bytes}"))?;
        let (acknowledged, error) = match answer.split_once(' ') {
            Some((acknowledged, error)) => (acknowledged, Some(error.to_owned())),
            None => (&*answer, None),
        };
        Ok((acknowledged.parse()?, error))
    }

    /// The numbers of the pairs of a writer that are there, each of them whole.
    pub fn pairs(&mut self, writer: &str) -> Result<Vec<u64>, Failure> {
        let answer = self.ask(&format!("pairs {writer}"))?;
        Ok(answer.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }

    /// Kills the process that has the replica with SIGKILL. One that runs in a sandbox is started anew there.
    pub fn kill(&mut self) -> Result<(), Failure> {
        if self.pid == self.process.id() {
            self.process.kill()?;
            self.process.wait()?;
            self.input = None;
            return Ok(());
        }
        let killed = Command::new("kill").args(["-9", &self.pid.to_string()]).status()?;
        if !killed.success() {
            return Err(format!("{} could not be killed", self.name).into());
        }
        self.greeted()
    }

    /// The process says who it is when it begins.
    fn greeted(&mut self) -> Result<(), Failure> {
        let line = self.line("greet")?;
        let pid = line.strip_prefix("pid ").ok_or_else(|| format!("a greeting of {line:?}"))?;
        self.pid = pid.parse()?;
        Ok(())
    }

    fn line(&mut self, request: &str) -> Result<String, Failure> {
        self.lines.recv_timeout(PATIENCE).map_err(|error| {
            let what = match error {
                RecvTimeoutError::Timeout => "does not answer",
                RecvTimeoutError::Disconnected => "ended instead of answering",
            };
            format!("{} {what} {request:?}", self.name).into()
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The process ends with its input, also where a sandbox stands between it and us.
        self.input = None;
        let deadline = Instant::now() + FAREWELL;
        while Instant::now() < deadline {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // It fails when the process has ended after all.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until all processes hold the same commits, then checks that they hold the same bytes.
pub fn settle(peers: &mut [&mut Peer]) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !agree(peers, "version")? {
        if Instant::now() > deadline {
            return Err(format!("not converged:{}", report(peers)).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match agree(peers, "digest")? {
        true => Ok(()),
        false => Err(format!("equal versions, other bytes:{}", report(peers)).into()),
    }
}

fn agree(peers: &mut [&mut Peer], about: &str) -> Result<bool, Failure> {
    let answers: Result<Vec<_>, _> = peers.iter_mut().map(|peer| peer.ask(about)).collect();
    Ok(answers?.windows(2).all(|pair| pair[0] == pair[1]))
}

/// How the processes stand, for a failure.
fn report(peers: &mut [&mut Peer]) -> String {
    let mut report = String::new();
    for peer in peers {
        for about in ["version", "digest", "peers", "stops"] {
            let answer = peer.try_ask(about);
            // Writing to a string cannot fail.
            let _ = write!(report, "\n  {} {about}: {answer:?}", peer.name);
        }
    }
    report
}
