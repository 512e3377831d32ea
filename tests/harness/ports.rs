//! Free ports on the loopback address.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex};

use rand::Rng;

/// Below the kernel's ephemeral range, so that no outgoing connection takes the port before the peer binds it.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that nobody listens on and that this process hands out only once.
#[must_use]
pub fn free_port() -> u16 {
    let mut taken = TAKEN.lock().expect("no holder of this lock panics");
    loop {
        let port = rand::rng().random_range(RANGE);
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
}
