//! Reads an order book: one line is a change of quantity in a customer's cart.

use std::collections::HashMap;
use std::path::Path;

/// The customer of lines that name none.
pub const GUEST: &str = "guest";

/// One line of an order: so much more (or less) of an article in a customer's cart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub customer: String,
    pub stock: String,
    pub description: String,
    pub quantity: i64,
}

/// One invoice: the lines that are booked together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    pub number: String,
    pub lines: Vec<Line>,
}

/// Why a file is not an order book.
#[derive(Debug, thiserror::Error)]
pub enum OrdersError {
    #[error("cannot read the order book {file}")]
    File { file: String, source: csv::Error },
    #[error("the order book has no column {0}")]
    MissingColumn(&'static str),
    #[error("line {line} of the order book has the quantity {text:?}, which is no whole number")]
    Quantity { line: u64, text: String },
}

/// Reads the invoices of an order book, in the order of their first lines.
pub fn read(file: &Path) -> Result<Vec<Invoice>, OrdersError> {
    let unreadable = |source| OrdersError::File { file: file.display().to_string(), source };
    let mut reader = csv::Reader::from_path(file).map_err(unreadable)?;
    let headers = reader.byte_headers().map_err(unreadable)?.clone();
    let column = |name: &'static str| {
        let names =
            headers.iter().map(|header| header.strip_prefix(b"\xef\xbb\xbf").unwrap_or(header));
        let mut names = names.map(<[u8]>::trim_ascii);
        names.position(|header| header == name.as_bytes()).ok_or(OrdersError::MissingColumn(name))
    };
    let (invoice, stock, description, quantity, customer) = (
        column("InvoiceNo")?,
        column("StockCode")?,
        column("Description")?,
        column("Quantity")?,
        column("CustomerID")?,
    );

    let mut invoices: Vec<Invoice> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for record in reader.byte_records() {
        let record = record.map_err(unreadable)?;
        // Descriptions are free text in whatever encoding the shop used.
        let field = |column: usize| {
            String::from_utf8_lossy(record.get(column).unwrap_or_default()).into_owned()
        };
        let text = field(quantity);
        let quantity = text.trim().parse().map_err(|_| OrdersError::Quantity {
            line: record.position().map_or(0, csv::Position::line),
            text,
        })?;
        let customer = Some(field(customer)).filter(|customer| !customer.is_empty());
        let line = Line {
            customer: customer.unwrap_or_else(|| GUEST.to_owned()),
            stock: field(stock),
            description: field(description),
            quantity,
        };
        let number = field(invoice);
        let place = *places.entry(number.clone()).or_insert_with(|| {
            invoices.push(Invoice { number, lines: Vec::new() });
            invoices.len() - 1
        });
        invoices[place].lines.push(line);
    }
    Ok(invoices)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const HEADER: &str =
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country";

    fn parse(text: &[u8]) -> Result<Vec<Invoice>, OrdersError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        read(file.path())
    }

    #[test]
    fn lines_of_an_invoice_are_booked_together_wherever_they_stand() {
        let text = format!(
            "{HEADER}\n1,a,\"Cup, red\",2,,,7,UK\nC2,b,Plate,-1,,,,UK\n1,c,Caf\u{e9},3,,,8,UK\n"
        );
        let invoices = parse(text.as_bytes()).unwrap();
        assert_eq!(invoices.len(), 2);
        assert_eq!(invoices[0].lines.len(), 2);
        assert_eq!(invoices[0].lines[0].description, "Cup, red");
        assert_eq!(invoices[0].lines[1].customer, "8");
        assert_eq!(invoices[1].lines[0].customer, GUEST);
        assert_eq!(invoices[1].lines[0].quantity, -1);
    }

    #[test]
    fn text_that_is_not_utf8_and_a_byte_order_mark_are_read() {
        let text = [b"\xef\xbb\xbf", HEADER.as_bytes(), b"\n1,a,Caf\xe9,2,,,7,UK\n"].concat();
        let invoices = parse(&text).unwrap();
        assert_eq!(invoices[0].lines[0].description, "Caf\u{fffd}");
    }

    #[test]
    fn what_is_no_order_book_is_refused_with_the_place() {
        assert!(matches!(parse(b"a,b\n1,2\n"), Err(OrdersError::MissingColumn("InvoiceNo"))));
        let text = format!("{HEADER}\n1,a,Cup,two,,,7,UK\n");
        assert!(matches!(parse(text.as_bytes()), Err(OrdersError::Quantity { line: 2, .. })));
        let text = format!("{HEADER}\n1,a\n");
        assert!(matches!(parse(text.as_bytes()), Err(OrdersError::File { .. })));
        assert!(matches!(read(Path::new("no such file")), Err(OrdersError::File { .. })));
    }
}
