//! A deterministic simulator for rejoin: many replicas in one world that cuts, delays, crashes and corrupts,
//! all from one seed.
//!
//! In a *world* a handful of replicas share spaces for some seconds of virtual time, while everything goes wrong
//! that the world's plan says. The engine, its sync sessions and its stores are the real ones, byte for byte; the
//! network, the disks, the clocks and the passing of time around them are made up. There are no threads in a
//! world and it waits for nothing, so minutes pass in milliseconds; and all chance comes from one number, the
//! *seed*, so whatever happened once can be seen again. The idea is FoundationDB's (Zhou et al., SIGMOD 2021).
//!
//! # Two minutes, for an application
//!
//! Say what a user does, and what must hold whatever the network does:
//!
//! ```
//! use rejoin_sim::app::Simulation;
//!
//! const ACCOUNTS: [&str; 3] = ["ann", "bob", "cem"];
//!
//! Simulation::new("bank", |turn| {
//!     // What a user does, at one replica or another, again and again.
//!     let (from, to) = (*turn.pick(&ACCOUNTS), *turn.pick(&ACCOUNTS));
//!     let amount = turn.random().within(1..=9) as i64;
//!     turn.say(format!("{amount} from {from} to {to}"));
//!     turn.replica().space("bank")?.write(|tx| {
//!         tx.counter(from).add(-amount)?;
//!         tx.counter(to).add(amount)
//!     })
//! })
//! .always(|replica| {
//!     // At every replica, at any time, however much of the others it has heard.
//!     let bank = replica.space("bank")?.read()?;
//!     let balances = ACCOUNTS.map(|account| bank.counter(account));
//!     let sum = balances.into_iter().sum::<Result<i64, _>>()?;
//!     assert_eq!(sum, 0, "money comes from nowhere");
//!     Ok(())
//! })
//! .seeds(1..=5)
//! .run()?;
//! # Ok::<(), rejoin_sim::app::Failure>(())
//! ```
//!
//! In a test, `.run().unwrap()` prints of a failure the seed, what did not hold, and the story of the smallest world
//! found that fails in the same way. `REJOIN_SIM_SEEDS=17 cargo test` runs that one world again, and
//! `REJOIN_SIM_SEEDS=1..100000 cargo test --release` many more. `examples/poll` tests a small application like
//! this, and shows how a plausible wrong one is caught. More is said at [`Simulation`](app::Simulation).
//!
//! # What is simulated
//!
//! | | what goes wrong | where |
//! |---|---|---|
//! | network | loss (even or in bursts), duplication, reordering, corruption, rate limits, small packets only; partitions, one-way cuts, flapping links, new addresses, slow readers | [`network`] |
//! | processes | power cuts at any moment and inside any disk operation, kills, restarts, pauses, too little memory, peers of another protocol version | |
//! | clocks | skew, drift, jumps of up to years, standing still | |
//! | disks | syncs, writes and reads that fail, torn writes, rotten bits, writes to the wrong place, no room, slowness | [`disk`] |
//! | histories of stores | logs truncated, a year of absence; if asked for, a backup restored over newer data, and a cloned disk | |
//! | peers that lie | two histories under one name, withheld commits, false versions, bytes that are no messages, a clock in the far future | |
//!
//! Not simulated are QUIC itself (the simulated transport promises what QUIC does, and no more), threads inside one
//! engine, disks that forget what they acknowledged as synced, and signatures: commits bear none yet, so a liar
//! cannot be caught by them.
//!
//! # Worlds are not alike
//!
//! A world that had every fault at once would always fail to do anything in the same way. So each class of faults is
//! on or off in a world, and has a rate of its own there: swarm testing (Groce et al., ISSTA 2012). The number of
//! replicas, the workload, who talks to whom and the shape of the stores are drawn as well. All of it is the world's
//! [`Plan`](plan::Plan), which is made before its first event.
//!
//! # How a world ends
//!
//! The troubles end, and a majority of replicas, drawn from those whose disks are sound and who do not lie, is healed
//! and connected; the rest is cut off. Now they have to
//!
//! 1. become equal within `2 * ceil(log2 n) + 4` rounds of anti-entropy, for `n` replicas; a round is the
//!    time in which each can dial a peer and finish an exchange;
//! 2. hold everything that any of them ever acknowledged as durable;
//! 3. fall silent: once all are equal, not a byte of data is sent any more.
//!
//! # Who looks on
//!
//! The checkers hear of everything that happens, in plain words ([`history`]), and share no code with what they
//! check. The first to object ends the world.
//!
//! | checker | what must hold |
//! |---|---|
//! | `dot-ledger` | the name of a commit means the same bytes for ever, at every replica |
//! | `causality` | whoever sees a commit sees all that its writer saw; the four session guarantees (Terry et al., PDIS 1994); a watch leaves nothing out and tells nothing twice |
//! | `atomicity` | a transaction is visible whole or not at all |
//! | `durability` | what was acknowledged as durable is there after every crash |
//! | `resurrection` | what was removed, and seen to be gone, stays so |
//! | `oracle` | every read is what a naive model says of the visible transactions |
//! | `agreement` | equal versions, equal bytes |
//! | `bounds` | what has a declared limit stays within it |
//! | `authenticity` | nothing is visible that nobody wrote |
//! | `corruption` | damage is found, and never served; and never claimed where there is none |
//! | `liveness` | every write is answered; the healed become equal, and silent |
//! | `panic` | nothing panics |
//! | `application` | what the application under test demands |
//!
//! What the transactions of an application mean, only the application knows: there, `oracle`, `atomicity` and
//! `resurrection` have nothing to say, and its own demands take their place.
//!
//! Who checks the checkers? In a build with `--features mutants` bugs are planted in the engine on purpose, one
//! after the other, each after a failure of a real system; `mutants` counts which are found, and by whom.
//!
//! # Seeing it again
//!
//! ```sh
//! cargo run --release -p rejoin-sim -- run --seeds 1..1000   # many worlds
//! cargo run --release -p rejoin-sim -- replay 17             # one, told and drawn
//! cargo run --release -p rejoin-sim -- shrink 17             # the smallest that fails in the same way
//! ```
//!
//! `shrink` takes replicas, transactions and faults away for as long as the same checker objects (after Zeller and
//! Hildebrandt, IEEE TSE 2002). Every part of a world draws from a stream of its own, so what is left behaves
//! much as before. A [`Simulation`](app::Simulation) does this by itself when it fails.
//!
//! # Determinism
//!
//! A world is a function of its plan, and a plan of its seed. Nothing reads a clock, asks the system for random bytes
//! or depends on threads: how many worlds run at once changes nothing in any of them. The hash of everything that
//! happened ([`Outcome::trace_hash`](outcome::Outcome::trace_hash)) is the same every time, which the tests hold it
//! to. A seed stands for the same world until the simulator or the engine changes what it draws or does,
//! in builds of one profile: with debug assertions the B-tree reads its file more often, and each read is one more
//! chance for the disk to fail. A failure that a release build found is repeated by a release build.

pub mod app;
pub mod checkers;
pub mod cli;
pub mod crash;
pub mod disk;
pub mod history;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod network;
mod node;
pub mod outcome;
pub mod plan;
pub mod random;
pub mod report;
pub mod runner;
mod side;
pub mod trace;
mod workload;
mod world;
