//! Transactions as an application writes them: typed handles over the prepared operations.

use rejoin_crdt::{Dot, IntoPath, Kind, Path, RowKey, SegmentRef, Value};
use rejoin_store::StoreError;

use crate::Error;
use crate::read::{Conflict, Tree};

/// A transaction being built; given to the closure of [`Space::write`](crate::Space::write).
///
/// Its handles read what the transaction has written so far. An error changes nothing, so a closure
/// may go on after one; returning it gives the whole transaction up.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let replica = rejoin::Replica::open(folder.path().join("app.rejoin"))?;
/// # let cart = replica.space("cart")?;
/// use rejoin::path;
///
/// let quantity = cart.write(|tx| {
///     tx.set("coupons").insert("AUTUMN")?;
///     tx.flag("gift").enable()?;
///     tx.register(path!["items", "milk", "title"]).put("Oat milk")?;
///     tx.counter(path!["items", "milk", "quantity"]).add(2)?;
///     tx.counter(path!["items", "milk", "quantity"]).get()
/// })?;
/// assert_eq!(quantity, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Transaction<'t, 'a> {
    inner: &'t mut rejoin_crdt::Transaction<'a, StoreError>,
}

impl<'t, 'a> Transaction<'t, 'a> {
    pub(crate) fn new(inner: &'t mut rejoin_crdt::Transaction<'a, StoreError>) -> Self {
        Self { inner }
    }

    /// The name that the commit will have.
    pub fn dot(&self) -> Dot {
        self.inner.dot()
    }

    /// The register at `path`.
    pub fn register(&mut self, path: impl IntoPath) -> RegisterMut<'_, 'a> {
        RegisterMut { inner: self.inner, path: path.into_path().map_err(Error::from) }
    }

    /// The counter at `path`.
    pub fn counter(&mut self, path: impl IntoPath) -> CounterMut<'_, 'a> {
        CounterMut { inner: self.inner, path: path.into_path().map_err(Error::from) }
    }

    /// The flag at `path`.
    pub fn flag(&mut self, path: impl IntoPath) -> FlagMut<'_, 'a> {
        FlagMut { inner: self.inner, path: path.into_path().map_err(Error::from) }
    }

    /// The set at `path`.
    pub fn set(&mut self, path: impl IntoPath) -> SetMut<'_, 'a> {
        SetMut { inner: self.inner, path: path.into_path().map_err(Error::from) }
    }

    /// Removes what is seen at exactly `path`, of every kind.
    ///
    /// # Errors
    /// [`Error::Path`], or [`Error::Store`] if the rows cannot be read.
    pub fn remove(&mut self, path: impl IntoPath) -> Result<(), Error> {
        Ok(self.inner.remove(&path.into_path()?)?)
    }

    /// Removes everything seen at and under `path`. What others add there concurrently stays. The cost
    /// on the wire does not depend on how much there is.
    ///
    /// # Errors
    /// [`Error::Path`], or [`Error::Store`] if the rows cannot be read.
    pub fn remove_tree(&mut self, path: impl IntoPath) -> Result<(), Error> {
        Ok(self.inner.remove_tree(&path.into_path()?)?)
    }

    /// The subtree at `path`, to be read as the transaction has left it.
    ///
    /// # Errors
    /// [`Error::Path`] if a limit is broken.
    pub fn tree(&self, path: impl IntoPath) -> Result<Tree<'_>, Error> {
        Ok(Tree::new(self.inner, path.into_path()?))
    }
}

impl std::fmt::Debug for Transaction<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction").field("dot", &self.dot()).finish_non_exhaustive()
    }
}

/// Defines a handle on one path of a transaction.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<'t, 'a> {
            inner: &'t mut rejoin_crdt::Transaction<'a, StoreError>,
            path: Result<Path, Error>,
        }

        impl<'t, 'a> $name<'t, 'a> {
            fn parts(
                self,
            ) -> Result<(&'t mut rejoin_crdt::Transaction<'a, StoreError>, Path), Error> {
                Ok((self.inner, self.path?))
            }
        }

        impl std::fmt::Debug for $name<'_, '_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.path).finish()
            }
        }
    };
}

handle! {
    /// A register in a transaction. Errors of its path come out of its methods.
    RegisterMut
}

impl RegisterMut<'_, '_> {
    /// Puts a value. It supersedes those seen here; concurrent puts by others stay beside it.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Value`] if the value breaks a limit, or [`Error::Store`].
    pub fn put(self, value: impl Into<Value>) -> Result<(), Error> {
        let (inner, path) = self.parts()?;
        Ok(inner.put(path, value.into())?)
    }

    /// Removes the values seen here.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn remove(self) -> Result<(), Error> {
        let (inner, path) = self.parts()?;
        Ok(inner.remove_row(RowKey { path, kind: Kind::Register })?)
    }

    /// The value; see [`Tree::register`].
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn get(self) -> Result<Option<Value>, Error> {
        let (inner, path) = self.parts()?;
        Tree::new(inner, path).register(Path::root())
    }

    /// All values side by side; see [`Tree::conflicts`].
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn conflicts(self) -> Result<Vec<Conflict>, Error> {
        let (inner, path) = self.parts()?;
        Tree::new(inner, path).conflicts(Path::root())
    }
}

handle! {
    /// A counter in a transaction. Errors of its path come out of its methods.
    CounterMut
}

impl CounterMut<'_, '_> {
    /// Adds `amount`, which may be negative.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::CounterOverflow`] or [`Error::Store`].
    #[allow(clippy::should_implement_trait)] // It is what one does to a counter, and no operator.
    pub fn add(self, amount: i64) -> Result<(), Error> {
        let (inner, path) = self.parts()?;
        Ok(inner.increment(path, amount)?)
    }

    /// Removes the increments seen here: the counter reads 0 until somebody adds again.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn reset(self) -> Result<(), Error> {
        let (inner, path) = self.parts()?;
        Ok(inner.remove_row(RowKey { path, kind: Kind::Counter })?)
    }

    /// The sum.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn get(self) -> Result<i64, Error> {
        let (inner, path) = self.parts()?;
        Tree::new(inner, path).counter(Path::root())
    }
}

handle! {
    /// A flag in a transaction. Errors of its path come out of its methods.
    FlagMut
}

impl FlagMut<'_, '_> {
    /// Turns the flag on. This wins over a concurrent [`disable`](Self::disable).
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn enable(self) -> Result<(), Error> {
        let (inner, path) = self.parts()?;
        Ok(inner.enable(path)?)
    }

    /// Turns the flag off.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn disable(self) -> Result<(), Error> {
        let (inner, path) = self.parts()?;
        Ok(inner.remove_row(RowKey { path, kind: Kind::Flag })?)
    }

    /// Whether the flag is on.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn get(self) -> Result<bool, Error> {
        let (inner, path) = self.parts()?;
        Tree::new(inner, path).flag(Path::root())
    }
}

handle! {
    /// A set in a transaction. Errors of its path come out of its methods.
    SetMut
}

impl SetMut<'_, '_> {
    /// Adds an element. This wins over a concurrent [`remove`](Self::remove).
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn insert<'s>(self, element: impl Into<SegmentRef<'s>>) -> Result<(), Error> {
        let (inner, path) = self.parts()?;
        Ok(inner.add_element(path.child(element)?)?)
    }

    /// Removes an element.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn remove<'s>(self, element: impl Into<SegmentRef<'s>>) -> Result<(), Error> {
        let (inner, path) = self.parts()?;
        let path = path.child(element)?;
        Ok(inner.remove_row(RowKey { path, kind: Kind::Element })?)
    }

    /// Whether an element is in the set.
    ///
    /// # Errors
    /// [`Error::Path`] or [`Error::Store`].
    pub fn contains<'s>(self, element: impl Into<SegmentRef<'s>>) -> Result<bool, Error> {
        let (inner, path) = self.parts()?;
        Tree::new(inner, path).contains(Path::root(), element)
    }
}
