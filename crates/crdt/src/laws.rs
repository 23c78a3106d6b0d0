//! The laws of this crate as checks that any test can run (feature `laws`).
//!
//! Two laws carry the engine, and every kind of row must keep them:
//!
//! - **L1: the state is a function of the visible commits.** For commits closed under causality, every
//!   delivery in causal order, and every mix of deliveries and state joins, gives the same canonical
//!   bytes: [`check_every_order`], [`check_orders`], and [`Cluster::check`] after each step of a history.
//! - **L2: the join is a lattice join.** It is commutative, associative and idempotent, and applying a
//!   commit equals joining its delta: [`check_join`], [`check_delta`].
//!
//! What a state must *mean* is the business of the [`Oracle`]: it knows only which commits happened,
//! what their writers wanted and what they had seen, and shares no code with the kinds, the effect or
//! the join. A [`Cluster`] puts it all together: replicas in memory that commit, pull, join and forget
//! as [`Step`]s say, each step checked against L1 and the oracle.
//!
//! A new kind joins in by an [`Intent`], a [`Read`] and a paragraph of the oracle.
//!
//! Nothing here draws random numbers of its own: what varies comes in as steps or as a seed.
//!
//! ```
//! use rejoin_crdt::Path;
//! use rejoin_crdt::laws::{Cluster, Intent, Read, Step};
//!
//! let path = Path::of(["quantity"])?;
//! let add = |replica, amount| Step::Commit {
//!     replica,
//!     wall_time_ms: 0,
//!     intents: vec![Intent::Increment { path: path.clone(), amount }],
//! };
//! let mut cluster = Cluster::new(2);
//! for step in [add(0, 2), add(1, 3), Step::Join { to: 0, from: 1 }] {
//!     cluster.run(&step)?; // checks L1 and the oracle too
//! }
//! assert_eq!(cluster.replica(0).state().reads().into_values().collect::<Vec<_>>(), [Read::Counter(5)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cluster;
mod commits;
mod intent;
mod lattice;
mod oracle;
mod order;
mod replica;
mod seeded;
mod state;
mod violation;

pub use cluster::{Cluster, Step};
pub use commits::{Commit, Commits};
pub use intent::Intent;
pub use lattice::{check_delta, check_join};
pub use oracle::{Event, Oracle, Read};
pub use order::{check_every_order, check_orders};
pub use replica::{Pulled, Replica};
pub use state::State;
pub use violation::Violation;
