//! What the carts look like in the replicated keyspace.
//!
//! | path | kind | what |
//! |---|---|---|
//! | `carts / customer / stock / quantity` | counter | how many |
//! | `carts / customer / stock / description` | register | what it is called |
//! | `carts / customer / coupons` | set | coupons to redeem |
//! | `carts / customer / gift` | flag | wrap it as a gift |

use std::collections::BTreeMap;

use rejoin::{Path, Snapshot, path};

use crate::orders::Invoice;

/// Whatever ends a run early.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Quantities by customer and stock code; those that are zero are left out.
pub type Quantities = BTreeMap<String, BTreeMap<String, i64>>;

/// Books an invoice in one transaction.
pub fn book(space: &rejoin::Space, invoice: &Invoice) -> Result<(), rejoin::Error> {
    space.write(|tx| {
        for line in &invoice.lines {
            let item: Path = path!["carts", &line.customer, &line.stock]?;
            tx.counter(item.child("quantity")).add(line.quantity)?;
            tx.register(item.child("description")).put(line.description.as_str())?;
        }
        Ok(())
    })
}

/// Reads all carts.
pub fn quantities(snapshot: &Snapshot) -> Result<Quantities, rejoin::Error> {
    let mut carts = Quantities::new();
    for customer in snapshot.tree("carts")?.children() {
        let (customer, cart) = customer?;
        for item in cart.children() {
            let (stock, item) = item?;
            let quantity = item.counter("quantity")?;
            if quantity != 0 {
                let cart = carts.entry(customer.to_string()).or_default();
                cart.insert(stock.to_string(), quantity);
            }
        }
    }
    Ok(carts)
}

/// What the carts must hold after `invoices`, worked out without replication; `None` if a sum leaves the range
/// of a counter.
pub fn expected(invoices: &[Invoice]) -> Option<Quantities> {
    let mut carts = Quantities::new();
    for line in invoices.iter().flat_map(|invoice| &invoice.lines) {
        let cart = carts.entry(line.customer.clone()).or_default();
        let sum = cart.entry(line.stock.clone()).or_default();
        *sum = i64::checked_add(*sum, line.quantity)?;
    }
    for cart in carts.values_mut() {
        cart.retain(|_, quantity| *quantity != 0);
    }
    carts.retain(|_, cart| !cart.is_empty());
    Some(carts)
}
