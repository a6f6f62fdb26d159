//! Calls a listener as strangers do: to see what they cost whoever is listening, while it has other work.
//!
//! ```sh
//! cargo run --release -p millstream-network --example hostile -- 10000                  # a listener of its own
//! cargo run --release -p millstream-network --example hostile -- 10000 127.0.0.1:7000   # somebody else's
//! ```
//!
//! A fifth each: a port scanner, random bytes, the beginning of a handshake, a whole hello and then silence, and a wrong secret.
//! At most 500 of them are open at once.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use millstream_network::session::{Session, Step};
use millstream_network::{Facts, Listener, Secret, Trust, dial};

const OPEN_MAX: usize = 500;

/// One stranger; its socket, if it hangs on.
fn call(address: SocketAddr, kind: usize, secret: &Secret) -> std::io::Result<Option<TcpStream>> {
    let mut socket = TcpStream::connect(address)?;
    let nonce = [kind as u8; 32];
    let mut session = Session::dial(secret, &Facts::new(), &b""[..], nonce, None).expect("an empty greeting is short");
    let Step::Send(hello) = session.step() else { unreachable!("a dialler begins") };
    match kind % 5 {
        0 => return Ok(None),
        1 => socket.write_all(b"\x80random bytes, or what somebody takes for a protocol")?,
        2 => socket.write_all(&hello[..17])?,
        3 => socket.write_all(&hello)?,
        _ => {
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.write_all(&hello)?;
            let mut challenge = vec![0; session.wants() + 32];
            socket.read_exact(&mut challenge)?;
            session.receive_all(&challenge);
            if let Step::Send(proof) = session.step() {
                socket.write_all(&proof)?;
            }
        }
    }
    Ok(Some(socket))
}

/// Processor time of this process's thread of that name, in milliseconds.
fn thread_ms(name: &str) -> Option<u64> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let thread = threads
        .map(|thread| thread.path())
        .find(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| name.starts_with(comm.trim_end())))?;
    let nanoseconds = std::fs::read_to_string(thread.join("schedstat")).ok()?;
    Some(nanoseconds.split(' ').next()?.parse::<u64>().ok()? / 1_000_000)
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
#[expect(clippy::print_stdout, reason = "a measurement reports")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().unwrap_or_else(|| "10000".to_owned()).parse()?;
    let (trust, facts) = (Trust::new(Secret::random()?), Facts::new());
    let (own, address) = match arguments.next() {
        Some(address) => (None, address.parse()?),
        None => {
            let listener = Listener::bind("127.0.0.1:0", trust.clone(), facts.clone())?;
            let address = listener.address();
            (Some(listener), address)
        }
    };
    let wrong = Secret::from_bytes(b"what a stranger thinks it is")?;
    let (mut open, mut turned_away, mut friends_ms) = (VecDeque::new(), 0_usize, Vec::new());
    let start = Instant::now();
    for kind in 0..count {
        match call(address, kind, &wrong) {
            Ok(socket) => open.extend(socket),
            Err(_) => turned_away += 1,
        }
        if open.len() > OPEN_MAX {
            open.pop_front();
        }
        // A friend, now and then.
        if let Some(listener) = own.as_ref().filter(|_| kind % 100 == 0) {
            let called = Instant::now();
            dial(&listener.address().to_string(), &trust, &facts, b"", Duration::from_secs(5))?;
            friends_ms.push(called.elapsed().as_secs_f64() * 1e3);
        }
    }
    let took = start.elapsed().as_secs_f64();
    println!("{count} strangers in {took:.2} s, of which {turned_away} could not finish");
    if let Some(listener) = own {
        friends_ms.sort_by(f64::total_cmp);
        let (median, slowest) = (friends_ms[friends_ms.len() / 2], friends_ms[friends_ms.len() - 1]);
        println!("{} friends got in, in {median:.2} ms (median), {slowest:.2} ms (slowest)", friends_ms.len());
        println!("the listener's thread worked for {} ms", thread_ms("millstream-listener").unwrap_or_default());
        let figures = listener.figures();
        println!("accepted {}, of {} that called", figures.accepted, figures.called);
        figures.all_dropped().for_each(|(cause, count)| println!("{count:>8} {}", cause.name()));
    }
    Ok(())
}
