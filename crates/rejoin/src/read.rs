//! Typed reads, shared by snapshots and by transactions that read their own writes.

use rejoin_crdt::{
    Dot, IntoPath, Kind, Path, ReadRows, Row, RowKey, Segment, SegmentRef, Value, kind,
};
use rejoin_store::StoreError;

use crate::Error;

/// The rows of a space, wherever they are read from.
pub(crate) type Rows<'a> = &'a dyn ReadRows<Error = StoreError>;

/// How many rows an iterator fetches at a time.
const PAGE_ROWS: usize = 256;

/// One of several values that concurrent puts left in a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The value.
    pub value: Value,
    /// The wall time of its commit, in milliseconds since the Unix epoch.
    pub wall_time_ms: u64,
    /// The commit that put it; its replica tells who wrote it.
    pub dot: Dot,
}

/// What one row says, by its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowValue {
    /// A register, with the value that a plain read gives.
    Register(Value),
    /// A counter, with its sum.
    Counter(i64),
    /// A flag that is on.
    Flag,
    /// A set element that is present.
    Element,
}

/// One row of an ordered scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where the row is.
    pub path: Path,
    /// What it says.
    pub value: RowValue,
}

/// A subtree of a space, to be read: everything at and under one path.
///
/// Paths given to its methods start at its root.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let replica = rejoin::Replica::open(folder.path().join("app.rejoin"))?;
/// # let cart = replica.space("cart")?;
/// use rejoin::path;
///
/// cart.write(|tx| {
///     tx.counter(path!["items", "milk", "quantity"]).add(2)?;
///     tx.register(path!["items", "milk", "title"]).put("Oat milk")?;
///     tx.counter(path!["items", "bread", "quantity"]).add(1)
/// })?;
///
/// let snapshot = cart.read()?;
/// let mut seen = Vec::new();
/// for child in snapshot.tree("items")?.children() {
///     let (sku, item) = child?;
///     seen.push((sku.to_string(), item.counter("quantity")?));
/// }
/// assert_eq!(seen, [("bread".to_owned(), 1), ("milk".to_owned(), 2)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tree<'a> {
    rows: Rows<'a>,
    root: Path,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(rows: Rows<'a>, root: Path) -> Self {
        Self { rows, root }
    }

    /// The path of the subtree's root in its space.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The subtree at `path` of this one.
    ///
    /// # Errors
    /// [`Error::Path`] if a limit is broken.
    pub fn tree(&self, path: impl IntoPath) -> Result<Tree<'a>, Error> {
        Ok(Tree { rows: self.rows, root: self.absolute(path)? })
    }

    /// The value of a register: of concurrent ones that with the latest wall time, then the greatest
    /// replica id. `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Path`], or [`Error::Store`] if the row cannot be read.
    pub fn register(&self, path: impl IntoPath) -> Result<Option<Value>, Error> {
        let row = self.row(path, Kind::Register)?;
        Ok(kind::register::latest(row.as_ref()).map(|sibling| sibling.value.clone()))
    }

    /// All values of a register that nothing has superseded, the one that [`register`](Self::register)
    /// gives first. More than one means that replicas put values without having seen each other's.
    ///
    /// # Errors
    /// [`Error::Path`], or [`Error::Store`] if the row cannot be read.
    pub fn conflicts(&self, path: impl IntoPath) -> Result<Vec<Conflict>, Error> {
        let row = self.row(path, Kind::Register)?;
        let siblings = kind::register::siblings(row.as_ref()).into_iter();
        Ok(siblings
            .map(|sibling| Conflict {
                value: sibling.value.clone(),
                wall_time_ms: sibling.wall_time_ms,
                dot: sibling.dot,
            })
            .collect())
    }

    /// The sum of a counter; 0 if there is none.
    ///
    /// # Errors
    /// [`Error::Path`], or [`Error::Store`] if the row cannot be read.
    pub fn counter(&self, path: impl IntoPath) -> Result<i64, Error> {
        Ok(kind::counter::value(self.row(path, Kind::Counter)?.as_ref()))
    }

    /// Whether a flag is on.
    ///
    /// # Errors
    /// [`Error::Path`], or [`Error::Store`] if the row cannot be read.
    pub fn flag(&self, path: impl IntoPath) -> Result<bool, Error> {
        Ok(kind::flag::is_enabled(self.row(path, Kind::Flag)?.as_ref()))
    }

    /// Whether `element` is in the set at `path`.
    ///
    /// # Errors
    /// [`Error::Path`], or [`Error::Store`] if the row cannot be read.
    pub fn contains<'s>(
        &self,
        path: impl IntoPath,
        element: impl Into<SegmentRef<'s>>,
    ) -> Result<bool, Error> {
        let element = path.into_path()?.child(element)?;
        Ok(kind::element::is_present(self.row(element, Kind::Element)?.as_ref()))
    }

    /// The elements of the set at the root of this subtree, in order.
    pub fn elements(&self) -> impl Iterator<Item = Result<Segment, Error>> + use<'a> {
        let root = self.root.clone();
        let rows = self.scan_rows();
        rows.filter_map(move |row| match row {
            Err(error) => Some(Err(error)),
            Ok((key, _)) => {
                let mut below = key.path.below(&root)?;
                let element = below.next()?;
                (key.kind == Kind::Element && below.next().is_none()).then_some(Ok(element))
            }
        })
    }

    /// The subtrees one segment below the root, in order, each once. Visits every row beneath.
    pub fn children(&self) -> impl Iterator<Item = Result<(Segment, Tree<'a>), Error>> + use<'a> {
        let tree = self.clone();
        let mut last: Option<Path> = None;
        self.scan_rows().filter_map(move |row| {
            let key = match row {
                Ok((key, _)) => key,
                Err(error) => return Some(Err(error)),
            };
            if last.as_ref().is_some_and(|last| key.path.starts_with(last)) {
                return None;
            }
            let segment = key.path.below(&tree.root)?.next()?;
            let child = match tree.root.child(&segment) {
                Ok(root) => Tree { rows: tree.rows, root },
                Err(error) => return Some(Err(error.into())),
            };
            last = Some(child.root.clone());
            Some(Ok((segment, child)))
        })
    }

    /// Every row at and under the root, in the order of paths. It fetches a few hundred rows at a time.
    pub fn scan(&self) -> impl Iterator<Item = Result<Entry, Error>> + use<'a> {
        self.scan_rows().map(|row| row.map(|(key, row)| Entry::new(key, &row)))
    }

    /// Whether nothing is at or under the root.
    ///
    /// # Errors
    /// [`Error::Store`] if the rows cannot be read.
    pub fn is_empty(&self) -> Result<bool, Error> {
        Ok(self.rows.page(&self.root, None, 1)?.is_empty())
    }

    fn scan_rows(&self) -> RowScan<'a> {
        RowScan { tree: self.clone(), page: Vec::new().into_iter(), after: None, ended: false }
    }

    fn row(&self, path: impl IntoPath, kind: Kind) -> Result<Option<Row>, Error> {
        Ok(self.rows.row(&RowKey { path: self.absolute(path)?, kind })?)
    }

    fn absolute(&self, path: impl IntoPath) -> Result<Path, Error> {
        Ok(self.root.join(&path.into_path()?)?)
    }
}

impl std::fmt::Debug for Tree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("path", &self.root).finish_non_exhaustive()
    }
}

impl Entry {
    fn new(key: RowKey, row: &Row) -> Self {
        let value = match key.kind {
            Kind::Register => RowValue::Register(
                kind::register::latest(Some(row)).map(|it| it.value.clone()).unwrap_or_default(),
            ),
            Kind::Counter => RowValue::Counter(kind::counter::value(Some(row))),
            Kind::Flag => RowValue::Flag,
            Kind::Element => RowValue::Element,
        };
        Self { path: key.path, value }
    }
}

/// The rows of a subtree, a page at a time. Ends after the first error.
struct RowScan<'a> {
    tree: Tree<'a>,
    page: std::vec::IntoIter<(RowKey, Row)>,
    after: Option<RowKey>,
    ended: bool,
}

impl Iterator for RowScan<'_> {
    type Item = Result<(RowKey, Row), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.len() == 0 && !self.ended {
            match self.tree.rows.page(&self.tree.root, self.after.as_ref(), PAGE_ROWS) {
                Ok(page) => {
                    self.ended = page.len() < PAGE_ROWS;
                    self.after = page.last().map(|(key, _)| key.clone());
                    self.page = page.into_iter();
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error.into()));
                }
            }
        }
        self.page.next().map(Ok)
    }
}
