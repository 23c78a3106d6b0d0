//! A vote over several devices: everyone has one ballot, and may change it or take it back, on any device.
//!
//! | path | kind | what |
//! |---|---|---|
//! | `ballots / voter` | register | what this voter voted for |
//! | `voted` | set | who has voted, for those who send reminders |
//!
//! The tally is stored nowhere. It is counted from the ballots: two devices that change one ballot at the same
//! time leave one ballot, whichever wins, and any number beside it would have been changed twice.

use std::collections::{BTreeMap, BTreeSet};

use rejoin::{Error, Replica, Space, path};

/// How many votes each choice has.
pub type Tally = BTreeMap<String, u64>;

/// A vote, as one device knows it.
pub struct Poll {
    space: Space,
}

/// How a vote stands, at one moment and at one device.
#[derive(Debug, PartialEq, Eq)]
pub struct Standing {
    pub tally: Tally,
    pub voted: BTreeSet<String>,
}

impl Poll {
    /// The vote that all devices of this deployment share.
    pub fn open(replica: &Replica) -> Result<Self, Error> {
        Ok(Self { space: replica.space("poll")? })
    }

    /// Casts a voter's ballot, or changes it.
    pub fn vote(&self, voter: &str, choice: &str) -> Result<(), Error> {
        self.space.write(|tx| {
            tx.register(path!["ballots", voter]).put(choice)?;
            tx.set("voted").insert(voter)
        })
    }

    /// Takes a voter's ballot back.
    pub fn withdraw(&self, voter: &str) -> Result<(), Error> {
        self.space.write(|tx| {
            tx.register(path!["ballots", voter]).remove()?;
            tx.set("voted").remove(voter)
        })
    }

    /// Counts the ballots.
    pub fn standing(&self) -> Result<Standing, Error> {
        let snapshot = self.space.read()?;
        let mut tally = Tally::new();
        for ballot in snapshot.tree("ballots")?.children() {
            let (_voter, ballot) = ballot?;
            let choice = ballot.register(rejoin::Path::root())?;
            let choice = choice.as_ref().and_then(|choice| choice.as_str()).unwrap_or_default();
            *tally.entry(choice.to_owned()).or_default() += 1;
        }
        let voted = snapshot.tree("voted")?.elements().map(|voter| Ok(voter?.to_string()));
        Ok(Standing { tally, voted: voted.collect::<Result<_, Error>>()? })
    }
}
