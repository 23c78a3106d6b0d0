//! The rules of the vote, in worlds whose networks are cut and whose machines crash.

use poll::{Poll, Tally};
use rejoin::{Error, Path, Replica, path};
use rejoin_sim::app::{Simulation, Turn};
use rejoin_sim::history::Checker;

const VOTERS: [&str; 5] = ["ann", "bob", "cem", "dua", "eve"];
const CHOICES: [&str; 3] = ["coffee", "tea", "water"];

/// Nobody's vote counts twice: at every replica and at any time the votes are as many as the people who have
/// voted. And those who have met agree.
#[test]
fn every_voter_counts_once() {
    let votes = |turn: &mut Turn<'_>| {
        let poll = Poll::open(turn.replica())?;
        let (voter, choice) = (*turn.pick(&VOTERS), *turn.pick(&CHOICES));
        if turn.random().chance(0.2) {
            turn.say(format!("{voter} withdraws"));
            return poll.withdraw(voter);
        }
        turn.say(format!("{voter} votes for {choice}"));
        poll.vote(voter, choice)
    };
    Simulation::new("poll", votes)
        .always(|replica| {
            let standing = Poll::open(replica)?.standing()?;
            assert_eq!(standing.tally.values().sum::<u64>(), standing.voted.len() as u64);
            Ok(())
        })
        .converged(|replicas| {
            for pair in replicas.windows(2) {
                assert_eq!(Poll::open(&pair[0])?.standing()?, Poll::open(&pair[1])?.standing()?);
            }
            Ok(())
        })
        .seeds(1..=12)
        .run()
        .unwrap();
}

/// The same vote by someone who keeps the tally in counters, beside the ballots and in one transaction with
/// them. That is right on one device. On two, a ballot that was changed on both is taken from the tally twice.
mod naive {
    use super::*;

    pub fn vote(replica: &Replica, voter: &str, choice: &str) -> Result<(), Error> {
        replica.space("poll")?.write(|tx| {
            let before = tx.register(path!["ballots", voter]).get()?;
            if let Some(before) = before.as_ref().and_then(|before| before.as_str()) {
                tx.counter(path!["tally", before]).add(-1)?;
            }
            tx.counter(path!["tally", choice]).add(1)?;
            tx.register(path!["ballots", voter]).put(choice)
        })
    }

    pub fn tally(replica: &Replica) -> Result<Tally, Error> {
        let snapshot = replica.space("poll")?.read()?;
        let votes = |choice: &&str| Ok((choice.to_string(), snapshot.counter(path!["tally", *choice])? as u64));
        CHOICES.iter().map(votes).collect()
    }

    pub fn voted(replica: &Replica) -> Result<u64, Error> {
        let snapshot = replica.space("poll")?.read()?;
        Ok(snapshot.tree("ballots")?.children().count() as u64)
    }
}
