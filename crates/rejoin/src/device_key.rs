//! The device's key, kept in the replica's folder.
//!
//! The file `device.key` holds the 32 seed bytes of the key and the first 8 bytes of their BLAKE3 hash. It
//! is written and synced before the first space is made, so a file that is missing or not whole beside a store
//! without spaces was never used, and is written anew; beside spaces it is damage.

use rejoin_quic::DeviceKey;
use rejoin_store::Backend;

use crate::Error;

const FILE: &str = "device.key";
const SEED_BYTES: usize = 32;
const CHECK_BYTES: usize = 8;

/// Reads the key, or makes one if the store is `unused`. The caller holds the store's lock.
pub(crate) fn load_or_create(backend: &dyn Backend, unused: bool) -> Result<DeviceKey, Error> {
    let files = backend.list().map_err(Error::folder("listing the replica's folder"))?;
    if files.iter().any(|file| file == FILE)
        && let Some(seed) = read(backend)?
    {
        return Ok(DeviceKey::from_seed(seed));
    }
    if !unused {
        return Err(Error::DeviceKey("the key file is missing or not whole".to_owned()));
    }
    let mut seed = [0; SEED_BYTES];
    getrandom::fill(&mut seed).map_err(Error::Random)?;
    let file = backend.create(FILE).map_err(Error::folder("creating the device key"))?;
    file.write_at(0, &[&seed[..], &check(&seed)].concat())
        .and_then(|()| file.sync())
        .and_then(|()| backend.sync_directory())
        .map_err(Error::folder("writing the device key"))?;
    Ok(DeviceKey::from_seed(seed))
}

/// The seed, if the file is whole.
fn read(backend: &dyn Backend) -> Result<Option<[u8; SEED_BYTES]>, Error> {
    let file = backend.open(FILE).map_err(Error::folder("opening the device key"))?;
    let length = file.len().map_err(Error::folder("reading the device key"))?;
    if length != (SEED_BYTES + CHECK_BYTES) as u64 {
        return Ok(None);
    }
    let mut bytes = [0; SEED_BYTES + CHECK_BYTES];
    file.read_at(0, &mut bytes).map_err(Error::folder("reading the device key"))?;
    let (seed, found) = bytes.split_at(SEED_BYTES);
    let seed: [u8; SEED_BYTES] = seed.try_into().expect("the slice was split at the seed's length");
    Ok((check(&seed) == found).then_some(seed))
}

fn check(seed: &[u8; SEED_BYTES]) -> [u8; CHECK_BYTES] {
    let hash = blake3::derive_key("rejoin device key check v1", seed);
    hash[..CHECK_BYTES].try_into().expect("a hash is longer than its check")
}
