//! The story: three devices share a cart, one goes through a tunnel, all keep shopping.

use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use rejoin::{Dot, Path, Snapshot, Value, path};

use crate::cart::Failure;
use crate::device::{self, Device};

/// How long a reader is given for each line of the story.
const PACE: Duration = Duration::from_millis(250);
/// How long the devices may take to settle.
const PATIENCE: Duration = Duration::from_secs(20);
const CUSTOMER: &str = "the household";

/// The cart as a person reads it.
#[derive(Debug, PartialEq, Eq)]
struct Cart {
    items: Vec<Item>,
    coupons: Vec<String>,
    gift: bool,
    note: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Item {
    name: String,
    quantity: i64,
}

/// Tells the story. Whether it ended as it must.
pub async fn tell() -> Result<bool, Failure> {
    let folder = tempfile::tempdir()?;
    let mut narrator = Narrator { began: Instant::now() };
    let devices = gather(folder.path(), &mut narrator).await?;
    let [phone, laptop, tablet] = &devices[..] else {
        return Err("the story needs three devices".into());
    };

    narrator.chapter("At home, all online");
    shop_together(phone, laptop, tablet, &mut narrator).await?;
    if !device::settle(&devices, 3, PATIENCE).await? {
        return Err("the devices did not settle at home".into());
    }
    show(&devices, &mut narrator)?;

    narrator.chapter("The phone goes into a tunnel; everybody keeps shopping");
    device::set_link(phone, laptop, false)?;
    device::set_link(phone, tablet, false)?;
    let renamed = shop_apart(phone, laptop, tablet, &mut narrator).await?;
    settle_home(laptop, tablet).await?;
    show(&devices, &mut narrator)?;

    narrator.chapter("The phone leaves the tunnel");
    device::set_link(phone, laptop, true)?;
    device::set_link(phone, tablet, true)?;
    if !device::settle(&devices, 9, PATIENCE).await? {
        return Err("the devices did not settle after the tunnel".into());
    }
    show(&devices, &mut narrator)?;

    let right = judge(&devices, &renamed, &mut narrator)?;
    for device in &devices {
        device.replica.offline().await;
    }
    Ok(right)
}

async fn gather(folder: &FilePath, narrator: &mut Narrator) -> Result<Vec<Device>, Failure> {
    narrator.chapter("Three devices, each with a store on disk, linked by QUIC");
    let mut devices = Vec::new();
    for name in ["phone", "laptop", "tablet"] {
        let device = Device::start(folder, name).await?;
        let address = device.replica.local_address().map(|it| it.to_string()).unwrap_or_default();
        let id = device.replica.device_id().to_string();
        narrator.event(name, &format!("listens at {address} as device {}..", &id[..8])).await;
        devices.push(device);
    }
    device::introduce(&devices)?;
    Ok(devices)
}

async fn shop_together(
    phone: &Device,
    laptop: &Device,
    tablet: &Device,
    narrator: &mut Narrator,
) -> Result<(), Failure> {
    narrator.event("phone", "adds 2 milk, 1 bread and 6 eggs, in one transaction").await;
    phone.space.write(|tx| {
        for (sku, name, quantity) in [("1", "Milk", 2), ("2", "Bread", 1), ("3", "Eggs", 6)] {
            tx.counter(item(sku)?.child("quantity")).add(quantity)?;
            tx.register(item(sku)?.child("name")).put(name)?;
        }
        Ok(())
    })?;
    narrator.event("laptop", "adds the coupons AUTUMN and WELCOME").await;
    laptop.space.write(|tx| {
        tx.set(cart("coupons")?).insert("AUTUMN")?;
        tx.set(cart("coupons")?).insert("WELCOME")
    })?;
    narrator.event("tablet", "asks for gift wrapping").await;
    tablet.space.write(|tx| tx.flag(cart("gift")?).enable())?;
    Ok(())
}

/// Everything that happens while the phone is away. The dots of the two concurrent renames.
async fn shop_apart(
    phone: &Device,
    laptop: &Device,
    tablet: &Device,
    narrator: &mut Narrator,
) -> Result<[Dot; 2], Failure> {
    narrator.event("phone", "adds 1 milk                         } one quantity,").await;
    phone.space.write(|tx| tx.counter(item("1")?.child("quantity")).add(1))?;
    narrator.event("laptop", "adds 3 milk                         } changed twice at once").await;
    laptop.space.write(|tx| tx.counter(item("1")?.child("quantity")).add(3))?;

    narrator.event("phone", "adds 2 bread and renames the milk     } one item, added to").await;
    let phone_rename = phone.space.write(|tx| {
        tx.counter(item("2")?.child("quantity")).add(2)?;
        tx.register(item("2")?.child("name")).put("Bread")?;
        tx.register(item("1")?.child("name")).put("Oat milk")?;
        Ok(tx.dot())
    })?;
    narrator.event("tablet", "takes the bread out, all of it      } and removed at once").await;
    tablet.space.write(|tx| tx.remove_tree(item("2")?))?;

    narrator.event("laptop", "renames the milk, takes AUTUMN out and wants no gift wrapping").await;
    // The pace of the story gives this rename a later wall time than the phone's.
    let laptop_rename = laptop.space.write(|tx| {
        tx.register(item("1")?.child("name")).put("Barista milk")?;
        tx.set(cart("coupons")?).remove("AUTUMN")?;
        tx.flag(cart("gift")?).disable()?;
        Ok(tx.dot())
    })?;
    narrator.event("phone", "adds AUTUMN again, wants gift wrapping, and empties the eggs").await;
    phone.space.write(|tx| {
        tx.set(cart("coupons")?).insert("AUTUMN")?;
        tx.flag(cart("gift")?).enable()?;
        tx.remove_tree(item("3")?)?;
        tx.register(cart("note")?).put("Leave it at the door")
    })?;
    Ok([phone_rename, laptop_rename])
}

/// Waits until the two that are not in the tunnel have each other's commits.
async fn settle_home(laptop: &Device, tablet: &Device) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while laptop.digest()? != tablet.digest()? || laptop.space.read()?.version().commits() < 6 {
        if Instant::now() > deadline {
            return Err("the two devices at home did not settle".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn judge(devices: &[Device], renamed: &[Dot; 2], narrator: &mut Narrator) -> Result<bool, Failure> {
    let expected = Cart {
        items: vec![
            // 2 + 1 + 3, and the later of two concurrent names.
            Item { name: "Barista milk".to_owned(), quantity: 6 },
            // The removal took the one loaf that it had seen; the two that it had not seen stay.
            Item { name: "Bread".to_owned(), quantity: 2 },
        ],
        coupons: vec!["AUTUMN".to_owned(), "WELCOME".to_owned()],
        gift: true,
        note: Some("Leave it at the door".to_owned()),
    };
    let mut right = true;
    for device in devices {
        let snapshot = device.space.read()?;
        right &= read_cart(&snapshot)? == expected;
        let names = snapshot.conflicts(item("1")?.child("name"))?;
        let dots: Vec<_> = names.iter().map(|name| name.dot).collect();
        right &= dots == [renamed[1], renamed[0]];
    }
    let digest = devices[0].digest()?;
    for device in devices {
        right &= device.digest()? == digest;
    }
    narrator.chapter(match right {
        true => "All three hold the same cart, byte for byte, and the right one",
        false => "WRONG: the carts differ, or are not what they must be",
    });
    if right {
        narrator
            .note("milk 2 + 1 + 3 = 6; both of its new names are kept, and the later one is shown");
        narrator.note("the bread added in the tunnel outlived the removal that had not seen it");
        narrator.note("AUTUMN and the gift wrapping: asking for it wins over a concurrent refusal");
    }
    Ok(right)
}

fn show(devices: &[Device], narrator: &mut Narrator) -> Result<(), Failure> {
    for device in devices {
        let snapshot = device.space.read()?;
        let cart = read_cart(&snapshot)?;
        let items: Vec<_> =
            cart.items.iter().map(|item| format!("{} {}", item.quantity, item.name)).collect();
        let mut text = items.join(", ");
        text += &format!("; coupons {}", cart.coupons.join(" "));
        text += if cart.gift { "; gift" } else { "" };
        if let Some(note) = cart.note {
            text += &format!("; {note:?}");
        }
        narrator.cart(&device.name, &snapshot.digest()?.to_string()[..12], &text);
    }
    Ok(())
}

fn read_cart(snapshot: &Snapshot) -> Result<Cart, Failure> {
    let cart = snapshot.tree(path!["carts", CUSTOMER]?)?;
    let mut items = Vec::new();
    for item in cart.tree("items")?.children() {
        let (_, item) = item?;
        let name = item.register("name")?;
        let name = name.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
        items.push(Item { name, quantity: item.counter("quantity")? });
    }
    let coupons = cart.tree("coupons")?.elements().map(|coupon| Ok(coupon?.to_string()));
    let note = cart.register("note")?;
    Ok(Cart {
        items,
        coupons: coupons.collect::<Result<_, rejoin::Error>>()?,
        gift: cart.flag("gift")?,
        note: note.as_ref().and_then(Value::as_str).map(str::to_owned),
    })
}

fn cart(part: &str) -> Result<Path, rejoin::Error> {
    Ok(path!["carts", CUSTOMER, part]?)
}

fn item(sku: &str) -> Result<Path, rejoin::Error> {
    Ok(path!["carts", CUSTOMER, "items", sku]?)
}

/// Prints what happens, with the time since the story began.
struct Narrator {
    began: Instant,
}

impl Narrator {
    fn chapter(&mut self, title: &str) {
        println!("\n{title}");
    }

    async fn event(&mut self, device: &str, what: &str) {
        tokio::time::sleep(PACE).await;
        println!("{:>7.3} s  {device:<7} {what}", self.began.elapsed().as_secs_f64());
    }

    fn cart(&mut self, device: &str, digest: &str, text: &str) {
        println!("           {device:<7} [{digest}] {text}");
    }

    fn note(&mut self, text: &str) {
        println!("           {text}");
    }
}
