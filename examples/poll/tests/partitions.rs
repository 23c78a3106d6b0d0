//! The rules of the vote, in worlds whose networks are cut and whose machines crash.

use poll::Poll;
use rejoin::{Error, Replica, path};
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
        .seeds(1..=8)
        .run()
        .unwrap();
}

/// The simulation is worth something only if it objects to what is wrong.
#[test]
fn a_tally_kept_in_counters_is_caught() {
    let votes = |turn: &mut Turn<'_>| {
        let (voter, choice) = (*turn.pick(&VOTERS), *turn.pick(&CHOICES));
        turn.say(format!("{voter} votes for {choice}"));
        naive::vote(turn.replica(), voter, choice)
    };
    let failure = Simulation::new("poll", votes)
        .always(|replica| {
            let (tally, votes) = naive::standing(replica)?;
            assert_eq!(tally, votes, "the tally and the ballots");
            Ok(())
        })
        .run()
        .expect_err("two devices that change one ballot at the same time");
    assert_eq!(failure.violation.checker, Checker::Application);
    assert!(failure.story.contains(" votes for "), "{failure}");
}

/// The same vote by someone who keeps the tally in counters, changed in one transaction with the ballot. That
/// is right on one device. On two, a ballot that is changed on both is taken from the tally twice.
mod naive {
    use super::*;

    pub fn vote(replica: &Replica, voter: &str, choice: &str) -> Result<(), Error> {
        replica.space("poll")?.write(|tx| {
            if let Some(before) = tx.register(path!["ballots", voter]).get()? {
                tx.counter(path!["tally", before.as_str().unwrap_or_default()]).add(-1)?;
            }
            tx.counter(path!["tally", choice]).add(1)?;
            tx.register(path!["ballots", voter]).put(choice)
        })
    }

    /// The tally, and what it should be.
    pub fn standing(replica: &Replica) -> Result<([i64; 3], [i64; 3]), Error> {
        let snapshot = replica.space("poll")?.read()?;
        let (mut tally, mut votes) = ([0; 3], [0; 3]);
        for (place, choice) in CHOICES.iter().enumerate() {
            tally[place] = snapshot.counter(path!["tally", *choice])?;
        }
        for voter in VOTERS {
            let vote = snapshot.register(path!["ballots", voter])?;
            let vote = vote.as_ref().and_then(|vote| vote.as_str());
            if let Some(place) = CHOICES.iter().position(|choice| Some(*choice) == vote) {
                votes[place] += 1;
            }
        }
        Ok((tally, votes))
    }
}
